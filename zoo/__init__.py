"""Models by name: backbones over any residual, each a builder function in a registry."""

if __name__ == "zoo":
    raise ImportError("this folder is a part of archzoo: import archzoo.zoo, not zoo")

from . import backbones as backbones
from .axes.adapters import apply_adapter as apply_adapter
from .axes.lowrank import apply_lowrank as apply_lowrank
from .axes.lowrank import merge_lowrank as merge_lowrank
from .axes.residuals import residuals as residuals
from .backbones.hyperbolic_head import use_hyperbolic_head as use_hyperbolic_head
from .certify.certificate import Certificate as Certificate
from .certify.certificate import plot_certificate as plot_certificate
from .certify.certify_model import certify as certify
from .inspect.depth_mixing import Trace as Trace
from .inspect.depth_mixing import depth_mixing_matrix as depth_mixing_matrix
from .inspect.depth_mixing import trace as trace
from .inspect.disk import plot_disk as plot_disk
from .inspect.disk import plot_tree as plot_tree
from .inspect.disk import project_to_disk as project_to_disk
from .inspect.plots import plot_depth_mixing as plot_depth_mixing
from .inspect.plots import plot_magnitudes as plot_magnitudes
from .inspect.residual_expansion import residual_expansion as residual_expansion
from .models import list_models as list_models
from .models import model_info as model_info
from .models import register_model as register_model
from .share.adapter_files import load_adapter as load_adapter
from .share.adapter_files import remove_adapter as remove_adapter
from .share.adapter_files import save_adapter as save_adapter
from .share.adapter_set import AdapterSet as AdapterSet
from .share.create import create_model as create_model
from .share.export import export_model as export_model
from .share.export import export_onnx as export_onnx
from .share.export import export_program as export_program
from .share.peft_bridge import load_peft as load_peft
from .share.peft_bridge import save_peft as save_peft
from .share.save_load import push_to_hub as push_to_hub
from .share.save_load import save_model as save_model
from .share.timm_bridge import register_with_timm as register_with_timm
from .transform.adapt import adapt as adapt
from .transform.data_aware import compress as compress
from .transform.distortion import additivity as additivity
from .transform.mimic_embeddings import mimic_embeddings as mimic_embeddings
from .transform.parallel import fuse_parallel as fuse_parallel
from .transform.parallel import to_parallel as to_parallel
from .transform.residual import with_residual as with_residual
