"""Public layers of the hyperboloid on a CPU, around weights that are given in our shapes.

Clones in the folder that the environment variable ARCHZOO_PEERS names, beside geoopt:

    git clone https://github.com/chenweize1998/fully-hyperbolic-nn
    git clone https://github.com/Graph-and-Geometric-Learning/HyperCore
    git clone https://github.com/kschwethelm/HyperbolicCV
    git clone https://github.com/robertdvdk/hyperbolic-fully-connected
    git clone https://github.com/HazyResearch/hgcn

Of each the files that hold a layer are imported, not the packages, whose other files need what
these do not. Their radius² is 1/c; that of the last is c, as here.
"""

import importlib
import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

__all__ = [
    "fgg_linear",
    "gcn_layers",
    "hcnn_layers",
    "hcnn_manifold",
    "hgcn_layers",
    "hybonet_attention",
    "hypercore_attention",
    "hypercore_linear",
]


def clone(folder: str) -> Path:
    """Return the folder of a clone.

    Raises:
        ImportError: it is not there.
    """
    place = Path(os.environ.get("ARCHZOO_PEERS", ".peers")) / folder
    if not place.is_dir():
        raise ImportError(f"no clone in {place}")
    return place


@contextmanager
def folders(top: Path, *names: str, **given: types.ModuleType) -> Iterator[None]:
    """Have packages found by their folders alone, their own `__init__` not run, while inside."""
    before = dict(sys.modules)
    for name in names:
        package = types.ModuleType(name)
        package.__path__ = [str(top.joinpath(*name.split(".")))]
        sys.modules[name] = package
    sys.modules.update({name.replace("__", "."): module for name, module in given.items()})
    try:
        yield
    finally:
        # Two of the clones have a package `layers`.
        for name in set(sys.modules) - set(before):
            if name.split(".")[0] in {each.split(".")[0] for each in names}:
                del sys.modules[name]


def with_k(manifold: Any, **numbers: Tensor) -> Any:
    """Give a manifold its curvature as a tensor that may want a gradient."""
    for name, number in numbers.items():
        manifold._parameters.pop(name, None)
        object.__setattr__(manifold, name, number)
    return manifold


def hybonet_attention(heads: int) -> nn.Module:
    """The attention of HyboNet's translation model, c = 1; queries, keys and values are points."""
    with folders(clone("fully-hyperbolic-nn") / "mt", "onmt", "onmt.modules"):
        attention = importlib.import_module("onmt.modules.lmulti_headed_attn")
        manifold = importlib.import_module("onmt.manifolds").Lorentz()
    layer = attention.LorentzMultiHeadedAttention(heads, heads, manifold, dropout=0.0)
    layer.linear_query = layer.linear_keys = layer.linear_values = nn.Identity()
    return layer


def gcn_layers() -> tuple[Any, Any]:
    """The module of HyboNet's graph layers, and its manifold of c = 1."""
    with folders(clone("fully-hyperbolic-nn") / "gcn", "layers", "manifolds"):
        manifold = importlib.import_module("manifolds.lorentz").Lorentz()
        return importlib.import_module("layers.hyp_layers"), manifold


def hgcn_layers() -> tuple[Any, Any]:
    """The module of HGCN's graph layers, and its manifold, the ball."""
    with folders(clone("hgcn"), "layers", "manifolds", "utils"):
        manifold = importlib.import_module("manifolds.poincare").PoincareBall()
        return importlib.import_module("layers.hyp_layers"), manifold


def fgg_linear(inputs: int, outputs: int, curvature: Tensor) -> nn.Module:
    """The fully connected layer of van der Klis et al. without an activation."""
    with folders(clone("hyperbolic-fully-connected"), "layers"):
        manifold = importlib.import_module("layers.lorentz").Lorentz(1.0)
        kind = importlib.import_module("layers.LLinear").LorentzFullyConnectedOurs
    with_k(manifold, _k=curvature)
    return kind(inputs + 1, outputs + 1, manifold=manifold, activation=nn.Identity())


def _hypercore(part: str, squared_radius: Tensor) -> tuple[Any, Any]:
    """A file of HyperCore, and its manifold."""
    utils = types.ModuleType("hypercore.utils")
    for name in ("arcosh", "artanh", "tanh"):
        setattr(utils, name, None)
    names = ["hypercore", "hypercore.nn", "hypercore.manifolds"]
    names += [f"hypercore.nn.{part}" for part in ("linear", "conv", "attention")]
    with folders(clone("HyperCore"), *names, hypercore__utils=utils):
        lorentz = importlib.import_module("hypercore.manifolds.lorentzian").Lorentz
        sys.modules["hypercore.manifolds"].Lorentz = lorentz  # type: ignore[attr-defined]
        for package, file in {
            "hypercore.nn.linear": ("lorentz_linear", "lorentz_CLS"),
            "hypercore.nn.conv": ("conv_util_layers",),
        }.items():
            for one in file:
                found = vars(importlib.import_module(f"{package}.{one}"))
                for name, value in found.items():
                    if isinstance(value, type) and value.__module__.startswith(package):
                        setattr(sys.modules[package], name, value)
        nn_package = sys.modules["hypercore.nn"]
        nn_package.LResNet = sys.modules["hypercore.nn.conv"].LResNet  # type: ignore[attr-defined]
        module = importlib.import_module(f"hypercore.nn.{part}")
    manifold = lorentz(1.0)
    return module, with_k(manifold, k=squared_radius, c=squared_radius)


def hypercore_attention(width: int, heads: int, squared_radius: Tensor) -> Any:
    """HyperCore's full attention, heads merged by their centroid."""
    module, manifold = _hypercore("attention.lorentz_former_conv", squared_radius)
    kind = module.LorentzMultiheadAttention
    return kind(manifold, width + 1, width + 1, heads, attention_type="full")


def hypercore_linear(inputs: int, outputs: int, squared_radius: Tensor) -> nn.Module:
    """HyperCore's linear layer."""
    module, manifold = _hypercore("linear.lorentz_linear", squared_radius)
    return module.LorentzLinear(manifold, inputs + 1, outputs)


def hcnn_layers() -> Any:
    """The package of HyperbolicCV's Lorentz layers, over the installed geoopt."""
    return _hcnn("lib.lorentz.layers")


def hcnn_manifold(squared_radius: Tensor) -> Any:
    """HyperbolicCV's manifold."""
    return with_k(_hcnn("lib.lorentz.manifold").CustomLorentz(1.0), k=squared_radius)


def _hcnn(name: str) -> Any:
    from archzoo.layers.hyperbolic.geoopt_bridge.quiet_geoopt import geoopt

    manifolds = importlib.import_module("geoopt.manifolds")
    lorentz = importlib.import_module("geoopt.manifolds.lorentz")
    given = {"lib__geoopt": geoopt, "lib__geoopt__manifolds": manifolds}
    given["lib__geoopt__manifolds__lorentz"] = lorentz
    with folders(clone("HyperbolicCV") / "code", "lib", "lib.lorentz", **given):
        return importlib.import_module(name)
