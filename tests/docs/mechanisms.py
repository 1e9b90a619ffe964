"""What the pages say of mechanisms, from the docstrings of the files that define them."""

import importlib
import inspect
import re
from collections import defaultdict
from collections.abc import Mapping

from archzoo.zoo import residuals
from archzoo.zoo.axes.lowrank import methods
from archzoo.zoo.registry import Registry

from ..reference import ROOT, linked, table

__all__ = ["EQUATIONS"]

HYPERBOLIC = {
    "`PoincareLinear`": "linear",
    "`PoincareConv2d`": "conv",
    "`MidpointBatchNorm`": "norm",
    "`MidpointPool`": "midpoint",
    "`PoincareMLR`": "head",
    "`PoincareEmbedding`": "embedding",
    "Möbius addition of tangents": "mobius_addition",
    "`TangentNorm`": "space.tangent_norm",
    "`HyperbolicAttention`": "space.attention",
    "Recentring": "space.recentring",
    "`LorentzLinear`": "space.lorentz_linear",
    "`HyperplaneLinear`": "space.hyperplane_linear",
    "`GatedLorentzLinear`": "space.gated_linear",
    "`LorentzConv2d`": "space.lorentz_conv",
    "`LorentzBatchNorm`": "space.lorentz_norm",
    "`LorentzMLR`, `LorentzPrototypes`": "space.lorentz_head",
}
LIPSCHITZ = {
    "`LDLTBlock`": "ldlt.block",
    "LDLᵀ blocks of two inner layers": "ldlt.joint",
    "`LDLTCircularConv2d`": "ldlt.circular",
    "`SLLBlock`, `SLLConv2d`": "sll",
    "`SandwichLayer`": "sandwich",
    "`AOLLinear`, `AOLConv2d`": "aol",
    "Heads and margins": "heads",
}


def modules(registry: Registry) -> dict[str, list[str]]:
    """The modules that define a registry's builders, in its order, with the names of each."""
    found = defaultdict(list)
    for name in registry._entries:
        found[registry[name].build.__module__].append(name)
    return dict(found)


def told(module: str) -> tuple[str, str]:
    """The first paragraph of a module's docstring, on one line, and the rest."""
    text = inspect.getdoc(importlib.import_module(module)) or ""
    first, _, rest = text.partition("\n\n")
    return " ".join(first.split()), rest


def code(names: list[str]) -> str:
    """Names as they are typed."""
    return ", ".join(f"`{name}`" for name in names)


def residual_names() -> str:
    """A table of the residuals: their names, a sentence on each, and where they come from."""
    rows = []
    for module, names in modules(residuals).items():
        sources = dict.fromkeys(linked(residuals[name].source) for name in names)
        rows.append((code(names), told(module)[0], ", ".join(sources)))
    return table(("`residual=`", "what it does", "source"), *rows)


def sections(files: Mapping[str, str]) -> str:
    """A section for each file: the equation, its source and what differs from it."""
    found = []
    for heading, module in files.items():
        first, rest = told(module)
        rest = re.sub(r"^(Sources?|Differs from \S+):", r"*\1:*", linked(rest), flags=re.M)
        rest = rest.replace("\n*Differs", "\n\n*Differs")
        file = module.removeprefix("archzoo.").replace(".", "/") + ".py"
        assert (ROOT / file).is_file(), file
        found.append("\n\n".join(filter(None, [f"### {heading}", first, rest, f"(`{file}`)"])))
    return "\n\n".join(found)


def of_registry(registry: Registry) -> str:
    """The sections of everything that a registry names."""
    return sections({code(names): module for module, names in modules(registry).items()})


def of_family(family: str, files: Mapping[str, str]) -> str:
    """The sections of some files of a family of layers."""
    return sections({name: f"archzoo.layers.{family}.{file}" for name, file in files.items()})


EQUATIONS = {
    "residual_names": residual_names,
    "residual_equations": lambda: of_registry(residuals),
    "lowrank_equations": lambda: of_registry(methods),
    "hyperbolic_equations": lambda: of_family("hyperbolic", HYPERBOLIC),
    "lipschitz_equations": lambda: of_family("lipschitz", LIPSCHITZ),
}
