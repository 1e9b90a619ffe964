"""Give the weights of any model a structure, in place, and take it away again."""

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import nn
from torch.nn.utils import parametrize

from .choose_targets import EXCLUDED, Targets, candidates_of, choose_targets, reason_to_skip
from .controller import Controller
from .freeze_others import check_patterns
from .method import Method
from .replace_module import replace_module
from .target import Target
from .weights.factored_layers import (
    FactoredConv2d,
    FactoredLinear,
    FactoredParameter,
    remove_parametrization,
)
from .weights.factors import stop_sampling
from .weights.structure import FrozenDense, WeightStructure

__all__ = ["merge", "reparametrize", "structures"]


def reparametrize(
    model: nn.Module,
    method: Method,
    targets: Targets = None,
    *,
    excluded: Sequence[str] = EXCLUDED,
    seed: int = 0,
    learning_rate_ratio: float = 1.0,
) -> Controller:
    """Replace weights of a model, in place, by what a method makes of them.

    Args:
        model: Any; before it is compiled, sharded or wrapped.
        method: What the weights become, and what happens to them in training.
        targets: Patterns on full names, a predicate of name and module, or None for all linear and
            convolutional layers and declared matrices that are not `excluded`, are not tied to
            another weight and become smaller.
        excluded: Patterns that None leaves out.
        seed: Of all random choices.
        learning_rate_ratio: Multiplies the learning rate of the targets.

    Returns:
        The controller; call its `attach` with the optimiser.

    Raises:
        ValueError: a pattern that matches nothing, a target that cannot have a structure, a rank
            it cannot have, or NaN in a weight. The model is then as it was.
    """
    candidates = candidates_of(model, method)
    chosen, named = choose_targets(candidates, targets, excluded, model, method)
    wanted: dict[str, Target] = {}
    made: list[tuple[Target, WeightStructure | None]] = []
    controller = Controller(
        model, method, {}, {}, seed=seed, learning_rate_ratio=learning_rate_ratio
    )
    skipped = controller.skipped
    for name in chosen:
        target, reason = candidates[name]
        if not reason and target.weight is not None:
            reason = reason_to_skip(method, target, economic=targets is None)
        if reason and name in named:
            raise ValueError(f"{name} cannot be a target: {reason}")
        if reason:
            skipped[name] = reason
            continue
        wanted[name] = target
    skipped |= method.prepare(wanted, skipped)
    for name, target in wanted.items():
        if name in skipped:
            continue
        structure = None
        if method.replaces:
            structure = method.structure(name, target.matrix(), controller.generator(name))
        made.append((target, structure))
    if not made:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
        raise ValueError(
            f"no weight of {type(model).__name__} is a target of {type(method).__name__}"
            f"{f' ({reasons})' if reasons else ''}; name some with targets=, or lower the rank"
        )
    check_patterns(model, method.trains_also or ())
    for target, structure in made:  # nothing was changed before all of them could be made
        controller.targets[target.name] = _replace(model, target, structure, method)
    if method.trains_also is not None:
        controller.freeze_rest(method.trains_also)
    return controller


def structures(model: nn.Module) -> Iterator[tuple[str, nn.Module, WeightStructure]]:
    """Iterate over name, layer and structure of every weight that has one.

    The name is the module's, or `module:parameter`, as targets are named.
    """
    for path, module in model.named_modules():
        if isinstance(module, (FactoredLinear, FactoredConv2d)):
            yield path, module, module.structure
        elif parametrize.is_parametrized(module):
            for parameter, faces in module.parametrizations.items():  # type: ignore[union-attr]
                face = faces[0]  # type: ignore[index]
                if isinstance(face, FactoredParameter):
                    yield f"{path}:{parameter}", module, face.structure


@torch.no_grad()
def merge(
    model: nn.Module, *, strict: bool = True, names: Collection[str] | None = None
) -> list[str]:
    """Make every weight of a model dense again, in place, with the outputs of evaluation.

    Names in the state dict become those of the original model.

    Args:
        model: Changed in place.
        strict: Whether a weight with an activation between its factors, which no matrix equals, is
            refused; else it stays.
        names: Of those that become dense; None is all.

    Returns:
        Names of the weights that became dense.

    Raises:
        ValueError: weights that no matrix equals, or whose half precision would round away what
            was learned beside them; the model is then as it was.
    """
    stop_sampling(model)  # a layer in training mode would give the prefix of its last step
    found = [each for each in structures(model) if names is None or each[0] in names]
    for name, _, structure in found:
        _refuse_half(name, structure)
    fixed = [name for name, _, structure in found if not structure.is_matrix]
    if fixed and strict:
        raise ValueError(
            f"{', '.join(fixed[:3])} ({len(fixed)} in all) have an activation between their "
            f"factors, so no dense weight equals them; pass strict=False to leave them factored"
        )
    merged = []
    for name, module, structure in found:
        if not structure.is_matrix:
            continue
        if isinstance(module, (FactoredLinear, FactoredConv2d)):
            replace_module(model, module, module.to_dense())
        else:
            remove_parametrization(module, name.partition(":")[2])
        merged.append(name)
    return merged


def _refuse_half(name: str, structure: WeightStructure) -> None:
    """Refuse to add a small change to a weight whose rounding is of its size."""
    base = getattr(structure, "extra", None)
    if isinstance(base, FrozenDense) and base.weight.dtype in (torch.float16, torch.bfloat16):
        raise ValueError(
            f"{name}: a weight in {base.weight.dtype} would round away what was learned beside it; "
            f"call model.float() first, and convert the merged model"
        )


def _replace(
    model: nn.Module, target: Target, structure: WeightStructure | None, method: Method
) -> Target:
    if structure is None:
        return target
    parameter = target.name.partition(":")[2]
    module, weight = target.module, target.weight
    assert weight is not None
    if not weight.requires_grad and not method.adapts:
        structure.requires_grad_(False)
    if parameter:
        face = FactoredParameter(structure, target.unfolding)
        parametrize.register_parametrization(module, parameter, face, unsafe=True)
        module.parametrizations[parameter].original.requires_grad_(False)  # type: ignore
        layer = module
    elif isinstance(module, nn.Linear):
        layer = FactoredLinear.from_dense(module, structure)
        replace_module(model, module, layer)
    else:
        assert isinstance(module, nn.Conv2d)
        layer = FactoredConv2d.from_dense(module, structure, method.scheme)
        replace_module(model, module, layer)
    if not parameter and layer.bias is None and method.adds_bias(target.name):
        zeros = weight.new_zeros(weight.shape[0])
        layer.bias = nn.Parameter(zeros, requires_grad=weight.requires_grad)
    return Target(target.name, layer, structure, None, target.unfolding)
