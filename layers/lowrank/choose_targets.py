"""Which weights of a model are the targets of a method, and why others are not.

Targets are named by the full names of their modules (`blocks.0.attn.qkv`), with shell patterns, by
a predicate, or as `module:parameter` for a layer that consumes a raw matrix. A layer says which of
its parameters are plain matrices with the class attribute `matrix_parameters`.
"""

import difflib
import fnmatch
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .method import Method, break_even
from .replace_module import computed, fastened
from .target import Target
from .weights.factored_layers import FactoredParameter
from .weights.unfolding import Unfolding

__all__ = ["EXCLUDED", "FROZEN", "Targets", "candidates_of", "choose_targets", "reason_to_skip"]

Targets = Sequence[str] | Callable[[str, nn.Module], bool] | None

EXCLUDED = ("head", "*.head", "*head.*", "*lm_head", "*classifier", "*embed*", "stem", "stem.*")
"""Names that are left dense unless they are targeted by name: little to gain, much to lose."""

FROZEN = "it is frozen, with requires_grad=False; make it trainable before it gets a structure"
"""Why a weight is left out that nothing trains."""


def candidates_of(model: nn.Module, method: Method) -> dict[str, tuple[Target, str]]:
    """Every weight that could be a target, with the reason why it cannot, or an empty one."""
    names: dict[int, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), []).append(name)
    found: dict[str, tuple[Target, str]] = {}
    inside: set[nn.Module] = set()
    for path, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            inside.update(module.modules())
        whole = _kind(module) in (nn.Linear, nn.Conv2d)
        for parameter in _weights(module):
            name = path if whole else f"{path}:{parameter}"
            weight = module._parameters.get(parameter)
            reason = fastened(module) if whole and method.replaces else ""
            reason = reason or _computed(module, parameter)
            unfolding = None
            if reason or weight is None:
                found[name] = (Target(name, module, None, None, None), reason)
                continue
            if len(names[id(weight)]) > 1:
                others = [n for n in names[id(weight)] if n != f"{path}.{parameter}"]
                reason = f"its weight is tied to {others[0]}; untie it first"
            elif not weight.is_floating_point() or weight.dtype.itemsize < 2:
                reason = _quantised(weight)
            elif module in inside:
                reason = "nn.MultiheadAttention reads the raw weights of its children"
            elif hasattr(weight, "manifold"):
                reason = "the parameter is a point of a manifold, not a matrix"
            elif _left_frozen(weight, method):
                reason = FROZEN
            elif weight.dim() == 4:
                reason, unfolding = _unfolding(module, weight, method)
            elif weight.dim() != 2:
                reason = f"its shape {tuple(weight.shape)} is not that of a matrix or a kernel"
            found[name] = (Target(name, module, None, weight, unfolding), reason)
    return found


def _weights(module: nn.Module) -> tuple[str, ...]:
    """Names of a module's parameters that are matrices: known for torch's layers, else declared."""
    if _kind(module) in (nn.Linear, nn.Conv2d):
        return ("weight",)
    declared = getattr(module, "matrix_parameters", ())
    return tuple(name for name in declared if module._parameters.get(name, module) is not None)


def _quantised(weight: Tensor) -> str:
    return (
        f"its weight holds {weight.dtype}, codes and not numbers; dequantise it, or start from the "
        f"weights before that and use lq_lora"
    )


def _computed(module: nn.Module, parameter: str) -> str:
    if parametrize.is_parametrized(module, parameter):
        faces = module.parametrizations[parameter]  # type: ignore[index, union-attr]
        if isinstance(faces[0], FactoredParameter):  # type: ignore[index]
            return "it has a structure already; call merge first"
    return computed(module, parameter)


def _kind(module: nn.Module) -> type:
    """Class of a module before PyTorch made one of its own for its parametrisations."""
    kind = type(module)
    return kind.__bases__[0] if parametrize.is_parametrized(module) else kind


def _unfolding(module: nn.Module, weight: Tensor, method: Method) -> tuple[str, Unfolding | None]:
    groups = getattr(module, "groups", 1)
    if groups > 1 and weight.shape[1] == 1:
        return "a depthwise kernel has rank 1 in every group; nothing is left to factor", None
    return "", Unfolding(method.scheme, tuple(weight.shape), groups)  # type: ignore[arg-type]


def choose_targets(
    candidates: dict[str, tuple[Target, str]],
    targets: Targets,
    excluded: Sequence[str],
    model: nn.Module,
    method: Method,
) -> tuple[list[str], set[str]]:
    """Names that are wanted, and those of them that were named without a pattern."""
    if targets is None:
        wanted = [
            name
            for name in candidates
            if not any(fnmatch.fnmatchcase(name.partition(":")[0], p) for p in excluded)
        ]
        return wanted, set()
    if callable(targets):
        return [n for n, (target, _) in candidates.items() if targets(n, target.module)], set()
    wanted, named = [], set()
    for pattern in targets:
        if ":" in pattern and pattern not in candidates:
            _add_parameter(candidates, pattern, model, method)
        matches = [name for name in candidates if fnmatch.fnmatchcase(name, pattern)]
        if not matches:
            near = difflib.get_close_matches(pattern, candidates, n=3, cutoff=0.4)
            hint = (
                f"; did you mean {near}?" if near else f"; give names such as {[*candidates][:3]}"
            )
            there = dict(model.named_modules()).get(pattern)
            if there is not None:
                kind = type(there)
                hint = f": it is a {kind.__module__}.{kind.__qualname__}{hint}"
            raise ValueError(f"targets: {pattern!r} matches no linear or convolutional layer{hint}")
        if pattern in candidates:
            named.add(pattern)
        elif all(candidates[name][1] for name in matches):
            raise ValueError(
                f"targets: nothing that {pattern!r} matches can be a target; {matches[0]}: "
                f"{candidates[matches[0]][1]}"
            )
        wanted += [name for name in matches if name not in wanted]
    return wanted, named


def _add_parameter(
    candidates: dict[str, tuple[Target, str]], name: str, model: nn.Module, method: Method
) -> None:
    """Admit a matrix that its layer does not declare but the user names."""
    path, _, parameter = name.partition(":")
    module = dict(model.named_modules()).get(path)
    if module is None or not hasattr(module, parameter):
        return
    weight = module._parameters.get(parameter)
    reason = _computed(module, parameter)
    if reason or weight is None:
        pass
    elif hasattr(weight, "manifold"):
        reason = "the parameter is a point of a manifold, not a matrix"
    elif not weight.is_floating_point() or weight.dtype.itemsize < 2:
        reason = _quantised(weight)
    elif weight.dim() != 2:
        reason = f"its shape {tuple(weight.shape)} is not that of a matrix"
    elif _left_frozen(weight, method):
        reason = FROZEN
    candidates[name] = (Target(name, module, None, weight, None), reason)


def _left_frozen(weight: Tensor, method: Method) -> bool:
    return not (weight.requires_grad or method.takes_frozen or method.adapts)


def reason_to_skip(method: Method, target: Target, *, economic: bool) -> str:
    """Say why a method leaves a weight out, or nothing."""
    matrix = target.matrix()
    if not matrix.is_meta and not torch.isfinite(matrix).all():
        raise ValueError(
            f"{target.name} holds NaN or infinite values, which no factors can stand for; load "
            f"sound weights"
        )
    if economic and (reason := method.refuses(target)):
        return reason
    shape = tuple(matrix.shape)
    if economic and method.skips_uneconomic:
        try:
            rank = method.rank_for(target.name, shape)
        except ValueError as error:
            return str(error)
        beside = method.beside(shape)
        numbers = 0 if rank is None else matrix.numel() / break_even(shape) * rank + beside
        if numbers >= matrix.numel():
            more = f" with {beside} numbers beside them" if beside else ""
            return f"two factors of rank {rank}{more} are not smaller than {shape[-2]}x{shape[-1]}"
    else:
        method.rank_for(target.name, shape)
    if ":" in target.name and not method.is_matrix:
        return "the layer needs a matrix, and this method has an activation between its factors"
    return ""
