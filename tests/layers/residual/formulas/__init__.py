"""The equations of all mechanisms, in plain PyTorch: what a stack of them closes with.

A formula takes the mechanism for its parameters alone, and what else it needs as the options that
the mechanism was built with. It knows no fast path, no images and no drop path.
"""

from collections.abc import Callable

from torch import Tensor

from . import attention, blocks, columns, streams, sums

__all__ = ["FORMULAS"]

FORMULAS: dict[str, Callable[..., Tensor]] = {
    name: getattr(module, name)
    for module, names in {
        sums: "add scaled skip_init rezero layer_scale deepnorm highway orthogonal parallel mobius "
        "lorentz_centroid",
        blocks: "denseformer elc_bert embedding_skip dca muddformer",
        attention: "attnres block_attnres gyro_attnres gyro_block_attnres depth_swa lime "
        "value_residual",
        columns: "delta delta_cc",
        streams: "hyper_connections mhc mhc_lite",
    }.items()
    for name in names.split()
}
