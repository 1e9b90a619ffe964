"""Residual mechanisms: how a branch's output joins the stream. The contract is in `stream`."""

from ._fast.two_phases import two_phase_mix
from .add import Add
from .analysis.orders import Expansion, mobius_orders, mobius_term
from .analysis.taylor import linear_orders, taylor_orders
from .attnres.attnres import AttnRes
from .attnres.block_attnres import BlockAttnRes
from .attnres.gyro_attnres import GyroAttnRes, GyroBlockAttnRes, gyro_mix
from .attnres.mix import depth_weights
from .attnres.mix import mix as depth_mix
from .deepnorm import DeepNorm
from .delta.delta import Delta, delta_cc
from .delta.write import delta_write
from .depth_mixing.dca import DeepCrossAttention
from .depth_mixing.denseformer import DenseFormer
from .depth_mixing.elc_bert import ElcBert
from .depth_mixing.embedding_skip import EmbeddingSkip
from .depth_mixing.lime import LayerMemory
from .depth_mixing.muddformer import MuddFormer
from .depth_swa import DepthSWA, depth_attention
from .highway import Highway
from .lorentz_centroid import LorentzCentroid
from .mobius import Mobius
from .orthogonal_update import OrthogonalUpdate, orthogonal_update
from .parallel_branches import Parallel, as_parallel
from .scaled import Scaled, layer_scale, rezero, scale_by_depth, skip_init
from .stream import (
    Context,
    Heads,
    Past,
    Read,
    Residual,
    Site,
    State,
    frozen_routing,
    routing_is_frozen,
    working_dtype,
)
from .streams.hyper_connections import HyperConnections
from .streams.mhc import MHC, MHCLite, double_stochasticity_error, sinkhorn_log
from .value_residual import ValueResidual

__all__ = [
    "MHC",
    "Add",
    "AttnRes",
    "BlockAttnRes",
    "Context",
    "DeepCrossAttention",
    "DeepNorm",
    "Delta",
    "DenseFormer",
    "DepthSWA",
    "ElcBert",
    "EmbeddingSkip",
    "Expansion",
    "GyroAttnRes",
    "GyroBlockAttnRes",
    "Heads",
    "Highway",
    "HyperConnections",
    "LayerMemory",
    "LorentzCentroid",
    "MHCLite",
    "Mobius",
    "MuddFormer",
    "OrthogonalUpdate",
    "Parallel",
    "Past",
    "Read",
    "Residual",
    "Scaled",
    "Site",
    "State",
    "ValueResidual",
    "as_parallel",
    "delta_cc",
    "delta_write",
    "depth_attention",
    "depth_mix",
    "depth_weights",
    "double_stochasticity_error",
    "frozen_routing",
    "gyro_mix",
    "layer_scale",
    "linear_orders",
    "mobius_orders",
    "mobius_term",
    "orthogonal_update",
    "rezero",
    "routing_is_frozen",
    "scale_by_depth",
    "sinkhorn_log",
    "skip_init",
    "taylor_orders",
    "two_phase_mix",
    "working_dtype",
]
