"""Models by name: backbones over any residual, each a builder function in a registry."""

if __name__ == "zoo":
    raise ImportError("this folder is a part of archzoo: import archzoo.zoo, not zoo")

from . import gpt as gpt
from . import hyperbolic_head as hyperbolic_head
from . import lipschitz_mlp as lipschitz_mlp
from . import lipschitz_resnet as lipschitz_resnet
from . import mlp as mlp
from . import poincare_embedding as poincare_embedding
from . import poincare_mlp as poincare_mlp
from . import poincare_resnet as poincare_resnet
from . import resnet as resnet
from . import variants as variants
from . import vit as vit
from .certificate import Certificate as Certificate
from .certificate import plot_certificate as plot_certificate
from .certify import certify as certify
from .convert import with_residual as with_residual
from .create import create_model as create_model
from .disk import plot_disk as plot_disk
from .disk import plot_tree as plot_tree
from .disk import project_to_disk as project_to_disk
from .expansion import residual_expansion as residual_expansion
from .hyperbolic_head import use_hyperbolic_head as use_hyperbolic_head
from .io import push_to_hub as push_to_hub
from .io import save_model as save_model
from .lowrank import apply_lowrank as apply_lowrank
from .lowrank import merge_lowrank as merge_lowrank
from .models import list_models as list_models
from .models import model_info as model_info
from .models import register_model as register_model
from .parallel import fuse_parallel as fuse_parallel
from .parallel import to_parallel as to_parallel
from .plots import plot_depth_mixing as plot_depth_mixing
from .plots import plot_magnitudes as plot_magnitudes
from .residuals import residuals as residuals
from .routing import Trace as Trace
from .routing import depth_mixing_matrix as depth_mixing_matrix
from .routing import trace as trace
from .timm_bridge import register_with_timm as register_with_timm
