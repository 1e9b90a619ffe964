"""Public layers of the hyperboloid on a CPU, around weights that are given in our shapes.

Clones in the folder that the environment variable ARCHZOO_PEERS names, beside geoopt:

    git clone https://github.com/chenweize1998/fully-hyperbolic-nn
    git clone https://github.com/Graph-and-Geometric-Learning/HyperCore
    git clone https://github.com/kschwethelm/HyperbolicCV
    git clone https://github.com/robertdvdk/hyperbolic-fully-connected
    git clone https://github.com/HazyResearch/hgcn
    git clone https://github.com/HayaAlyoussef/HexFormer
    git clone https://github.com/Graph-and-Geometric-Learning/hyperbolic-transformer

Of each the files that hold a layer are imported, not the packages, whose other files need what
these do not. Their radius² is 1/c; that of hyperbolic-fully-connected and of hgcn is c, as here.
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
    "clone",
    "fgg_linear",
    "folders",
    "gcn_layers",
    "hcnn_layers",
    "hcnn_manifold",
    "hexformer_attention",
    "hexformer_linear",
    "hgcn_layers",
    "hybonet_attention",
    "hypercore_attention",
    "hypercore_linear",
    "hypercore_part",
    "hypformer_layer",
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


def hypercore_part(name: str, squared_radius: Tensor, *given: Any, **options: Any) -> Any:
    """HyperCore's norms and residual, by the name of their class."""
    module, manifold = _hypercore("conv.conv_util_layers", squared_radius)
    return getattr(module, name)(manifold, *given, **options)


def hypformer_layer(name: str, squared_radius: Tensor, *given: Any) -> Any:
    """A layer of Hypformer by the name of its class."""
    from archzoo.layers.hyperbolic.geoopt_bridge.quiet_geoopt import geoopt  # noqa: F401

    with folders(clone("hyperbolic-transformer") / "medium", "manifolds"):
        layers = importlib.import_module("manifolds.hyp_layer")
        manifold = importlib.import_module("manifolds.lorentz").Lorentz(1.0)
    return getattr(layers, name)(with_k(manifold, k=squared_radius), *given)


def hcnn_layers() -> Any:
    """The package of HyperbolicCV's Lorentz layers, over the installed geoopt."""
    return _hcnn("lib.lorentz.layers")


def hcnn_manifold(squared_radius: Tensor) -> Any:
    """HyperbolicCV's manifold."""
    return with_k(_hcnn("lib.lorentz.manifold").CustomLorentz(1.0), k=squared_radius)


def _hcnn(name: str) -> Any:
    top = clone("HyperbolicCV") / "code"
    with folders(top, "lib", "lib.lorentz", **_geoopt_of("lib")):
        return importlib.import_module(name)


def hexformer_attention(width: int, heads: int, squared_radius: Tensor) -> Any:
    """HexFormer's attention; queries, keys, values and what attends go by as they are."""
    blocks, manifold = _hexformer()
    with_k(manifold, k=squared_radius)
    layer = blocks.LorentzMultiHeadAttention(manifold, 1 + heads * width, 0, heads)
    layer.q, layer.k, layer.v, layer.o = (nn.Identity() for _ in range(4))
    return layer


def hexformer_linear(inputs: int, outputs: int) -> nn.Module:
    """HexFormer's linear layer at c = 1, where its margin is 1.5."""
    blocks, manifold = _hexformer()
    return blocks.LorentzFullyConnected(manifold, inputs + 1, outputs + 1, bias=True)


def _hexformer() -> tuple[Any, Any]:
    with folders(clone("HexFormer"), "lib", "lib.lorentz", "lib.utils", **_geoopt_of("lib")):
        blocks = importlib.import_module("lib.lorentz.blocks.transformer_blocks")
        return blocks, importlib.import_module("lib.lorentz.manifold").CustomLorentz(1.0)


def _geoopt_of(package: str) -> dict[str, Any]:
    """What a package that carries geoopt along is given for it: the installed one."""
    from archzoo.layers.hyperbolic.geoopt_bridge.quiet_geoopt import geoopt

    found: dict[str, Any] = {f"{package}__geoopt": geoopt}
    for name in ("manifolds", "manifolds.lorentz", "tensor"):
        module = importlib.import_module(f"geoopt.{name}")
        found[f"{package}__geoopt__{name.replace('.', '__')}"] = module
    return found
