"""The residual axis: names for the mechanisms of `archzoo.layers.residual`.

Every backbone takes one argument `residual=`, which is a name, a mapping with a name and options,
or a configured object:

    create_model("vit_tiny", residual="block_attnres")
    create_model("vit_tiny", residual={"name": "block_attnres", "block_size": 2})
    create_model("vit_tiny", residual=functools.partial(BlockAttnRes, block_size=2))
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...layers import residual as mechanisms
from ...layers.residual import Residual, Site
from ..registry import Registry

__all__ = ["ResidualSpec", "make_residual", "residual_config", "residuals", "takes"]

ResidualSpec = str | Mapping[str, Any] | Callable[..., Residual]

residuals = Registry("residual", given=("width", "sites", "channel_dim"))
for _name, _build, _source in [
    ("add", mechanisms.Add, "arXiv:1603.05027"),
    ("scaled", mechanisms.Scaled, "arXiv:1903.07120"),
    ("skip_init", mechanisms.skip_init, "arXiv:2002.10444"),
    ("rezero", mechanisms.rezero, "arXiv:2003.04887"),
    ("layer_scale", mechanisms.layer_scale, "arXiv:2103.17239"),
    ("attnres", mechanisms.AttnRes, "arXiv:2603.15031"),
    ("block_attnres", mechanisms.BlockAttnRes, "arXiv:2603.15031"),
    ("delta", mechanisms.Delta, "arXiv:2601.00417"),
    ("delta_cc", mechanisms.delta_cc, "arXiv:2601.00417"),
    ("muddformer", mechanisms.MuddFormer, "arXiv:2502.12170"),
    ("lime", mechanisms.LayerMemory, "arXiv:2502.09245"),
    ("dca", mechanisms.DeepCrossAttention, "arXiv:2502.06785"),
    ("deepnorm", mechanisms.DeepNorm, "arXiv:2203.00555"),
    ("highway", mechanisms.Highway, "arXiv:1505.00387"),
    ("depth_swa", mechanisms.DepthSWA, "arXiv:2603.16039"),
    ("denseformer", mechanisms.DenseFormer, "arXiv:2402.02622"),
    ("elc_bert", mechanisms.ElcBert, "arXiv:2311.02265"),
    ("embedding_skip", mechanisms.EmbeddingSkip, "Karpathy 2026, nanochat"),
    ("hyper_connections", mechanisms.HyperConnections, "arXiv:2409.19606"),
    ("mhc", mechanisms.MHC, "arXiv:2512.24880"),
    ("orthogonal", mechanisms.OrthogonalUpdate, "arXiv:2505.11881"),
    ("parallel", mechanisms.Parallel, "arXiv:2309.08414"),
    ("value_residual", mechanisms.ValueResidual, "arXiv:2410.17897"),
    ("mhc_lite", mechanisms.MHCLite, "arXiv:2601.05732"),
    ("mobius", mechanisms.Mobius, "arXiv:2303.14027"),
    ("lorentz_centroid", mechanisms.LorentzCentroid, "arXiv:2412.14695"),
    ("gyro_attnres", mechanisms.GyroAttnRes, "ours, after arXiv:2603.15031"),
    ("gyro_block_attnres", mechanisms.GyroBlockAttnRes, "ours, after arXiv:2603.15031"),
]:
    residuals.register(name=_name, source=_source)(_build)


def residual_config(spec: ResidualSpec) -> str | dict[str, Any]:
    """Write a spec as JSON would hold it: a name, or a mapping with a name and options.

    Raises:
        ValueError: the spec names no registered mechanism, or an option it does not take.
    """
    if isinstance(spec, str):
        name, options = spec, {}
    elif isinstance(spec, Mapping):
        options = dict(spec)
        if "name" not in options:
            raise ValueError(f"residual={dict(spec)!r} has no 'name'; give one of {_names()}")
        name = options.pop("name")
    elif isinstance(spec, functools.partial) and not spec.args:
        name, options = _name_of(spec.func), dict(spec.keywords)
    elif callable(spec):
        name, options = _name_of(spec), {}
    else:
        raise ValueError(f"residual must be a name, a mapping or a builder, got {spec!r}")
    residuals[name].check(options)
    return {"name": name, **options} if options else name


def make_residual(
    spec: ResidualSpec,
    width: int,
    sites: Sequence[Site],
    *,
    channel_dim: int = -1,
    shared: Mapping[str, Any] | None = None,
) -> Residual:
    """Build the mechanism of one network or stage.

    Args:
        spec: A name, a mapping with `name` and options, or a builder `(width, sites, *,
            channel_dim) -> Residual`, such as a `functools.partial` of a mechanism.
        width: Stream width.
        sites: The sites in order.
        channel_dim: -1 for tokens, 1 for images.
        shared: What the backbone's layers have in common, such as the curvature of their space or
            `num_heads`; a named mechanism that has such an option takes it from here where the spec
            does not say.

    Raises:
        ValueError: unknown name or option, an option out of range, or one that says that points
            have other coordinates than those of the space.
    """
    if callable(spec):
        return spec(width, sites, channel_dim=channel_dim)
    config = residual_config(spec)
    options = {} if isinstance(config, str) else dict(config)
    name = config if isinstance(config, str) else options.pop("name")
    entry = residuals[name]
    known = {key: value for key, value in (shared or {}).items() if key in entry.options}
    coordinates = known.get("coordinates")
    if coordinates is not None and options.get("coordinates", coordinates) != coordinates:
        raise ValueError(
            f"residual={name!r} has coordinates={options['coordinates']!r}, and the features of "
            f"this geometry are coordinates={coordinates!r}; leave the option out"
        )
    return entry.build(width, sites, channel_dim=channel_dim, **{**known, **options})


def takes(spec: ResidualSpec, option: str) -> bool:
    """Whether a named mechanism takes an option from the space that it lies in."""
    if callable(spec):
        return False
    config = residual_config(spec)
    name = config if isinstance(config, str) else config["name"]
    return option in residuals[name].options


def _names() -> str:
    return ", ".join(residuals.names())


def _name_of(build: Callable[..., Residual]) -> str:
    for name in residuals.names():
        if residuals[name].build is build:
            return name
    raise ValueError(
        f"residual={build!r} is not a registered mechanism, so it cannot be written to a config; "
        f"use one of {_names()}"
    )
