"""Every operator of compiled code refuses tensors that its loops do not assume, and lives."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from archzoo.layers._kernels import load_kernels
from torch import Tensor

from .kernel_fuzz import LAYERS, Subject

FAMILIES = ["poincare"]


def recorded(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> dict[tuple[str, tuple[int, ...]], tuple[Any, list[Any]]]:
    """Return well-formed calls of each operator, one for each number of axes of its arguments."""
    calls = {}
    library = getattr(torch.ops, f"archzoo_{family}")

    def keeping(name: str, op: Any) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            copies = [x.clone() if isinstance(x, Tensor) else x for x in arguments]
            axes = tuple(x.dim() for x in copies if isinstance(x, Tensor))
            calls.setdefault((name, axes), (op, copies))
            return op(*arguments)

        return call

    for name in operators(family):
        monkeypatch.setattr(library, name, keeping(name, getattr(library, name)))
    for subject in LAYERS.values():
        run(subject)
    return calls


def operators(family: str) -> set[str]:
    """Return the names of all operators of a family."""
    schemas = [schema.name.split("::") for schema in torch._C._jit_get_all_schemas()]
    return {name for namespace, name in schemas if namespace == f"archzoo_{family}"}


def run(subject: Subject) -> None:
    """Run a layer forward and backward on a well-formed input."""
    t = torch.randn(subject.shape, dtype=torch.float64, requires_grad=True)
    layer = subject.build().double()
    layer(t).sum().backward()


def longer(x: Tensor, axis: int) -> Tensor:
    return torch.cat([x, x.narrow(axis, 0, 1)], axis)


WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "half precision": lambda x: x.to(torch.float16),
    "integers": lambda x: x.to(torch.int64),
    "another precision": lambda x: x.float(),
    "every other number": lambda x: torch.stack([x, x], -1)[..., 0],
    "repeated": lambda x: x.flatten()[:1].expand(x.numel()).view(x.shape),
    "nothing": lambda x: x.new_empty(0),
    "one number more": lambda x: longer(x.flatten(), 0),
    "longer first axis": lambda x: longer(x, 0),
    "longer last axis": lambda x: longer(x, -1),
    "no axis": lambda x: x.flatten()[0].clone(),
}

ALLOWED = {
    ("hyperplanes", 1, "nothing"),  # hyperplanes through the origin have no offsets
    ("patch_squares", 0, "longer last axis"),  # rows of any width have one square each
    ("row_squares", 0, "longer last axis"),
    ("add_time", 0, "longer last axis"),
    ("plane_numbers", 0, "longer last axis"),
    ("plane_numbers", 1, "nothing"),
    # The gain of a head is that of all its tokens: numbers at any distance.
    ("covector", 1, "every other number"),
    ("covector", 1, "repeated"),
    ("covector_backward", 2, "every other number"),
    ("covector_backward", 2, "repeated"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_an_operator_throws_where_one_argument_is_not_what_it_assumes(family, monkeypatch):
    if not load_kernels(family):
        pytest.skip("no compiler, and then no kernels")
    calls = recorded(family, monkeypatch)
    assert operators(family) == {name for name, _ in calls}, (
        "operators that no layer of the fuzz calls"
    )
    for (name, _), (op, arguments) in calls.items():
        op(*arguments)
        before = [x.clone() if isinstance(x, Tensor) else x for x in arguments]
        for i, x in enumerate(arguments):
            if not isinstance(x, Tensor):
                continue
            for how, change in WRONG.items():
                if x.dim() == 0 and "axis" in how:
                    continue
                wrong = change(x)
                same = wrong.shape == x.shape and wrong.dtype == x.dtype
                if same and wrong.is_contiguous():
                    continue  # of one number, whose strides say nothing
                if (name, i, how) in ALLOWED:
                    continue
                given = [*arguments[:i], wrong, *arguments[i + 1 :]]
                with pytest.raises(RuntimeError):
                    op(*given)
                    pytest.fail(f"{name} took {how} for argument {i}")
        for one, other in zip(arguments, before, strict=True):
            assert not isinstance(one, Tensor) or torch.equal(one, other), "written before a check"


@pytest.mark.skipif(not load_kernels("poincare"), reason="no compiler, and then no kernels")
@pytest.mark.parametrize(
    "groups, place",
    [
        (3, [1, 1, 1, 1, 0, 0, 1, 1]),
        (0, [1, 1, 1, 1, 0, 0, 1, 1]),
        (-1, [1, 1, 1, 1, 0, 0, 1, 1]),
        (1, [1, 1, 1, 1, 0, 0, 1]),
        (1, [1, 1, 0, 1, 0, 0, 1, 1]),
        (1, [1, 1, 1, -1, 0, 0, 1, 1]),
        (1, [1, 1, 1, 1, -1, 0, 1, 1]),
        (1, [0, 1, 1, 1, 0, 0, 1, 1]),
        (1, [1, 1, 1, 1, 0, 0, 0, 1]),
        (1, [9, 1, 1, 1, 0, 0, 1, 1]),
        (1, [3, 3, 1, 1, 0, 0, 1, 1]),
        (1, [2**62, 1, 1, 1, 0, 0, 2**62, 1]),
        (1, [1, 1, 1, 1, 2**62, 2**62, 1, 1]),
    ],
)
def test_a_box_that_is_none_is_refused(groups, place):
    t, square = torch.ones(2, 4, 5, 6), torch.empty(2, max(groups, 1), 5, 6)
    kernels = torch.ops.archzoo_poincare
    with pytest.raises(RuntimeError):
        kernels.patch_squares(t, groups, place, 1.0, square)
    with pytest.raises(RuntimeError):
        kernels.patch_squares_backward(square, t, groups, place, 1.0, torch.empty_like(t))
