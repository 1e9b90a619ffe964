"""The operators of the residuals' kernels refuse a tensor they cannot read, and write nothing."""

import pytest
import torch
from archzoo.layers._kernels import load_kernels

from ..stacks import normal

pytestmark = pytest.mark.skipif(
    not (load_kernels("attnres") and load_kernels("delta")), reason="no compiler"
)
ROWS = (2, 3, 4)


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, dtype=torch.float64)


def arguments(operator: str) -> dict:
    """Return what an operator takes for 2 sources, or m = 2 columns, of 2 × 3 rows of width 4."""
    sources, state = [normal(*ROWS), normal(*ROWS, seed=1)], normal(2, 3, 2, 4)
    weights = {"weights": zeros(2, 3, 2), "statistics": zeros(2, 3, 2)}
    heads = {"branch": normal(*ROWS), "beta": normal(2, 3, 1), "value": normal(2, 3, 2)}
    return {
        "attnres::depth_mix": {
            "sources": sources,
            "query": normal(4),
            "bias": zeros(2, 3, 2),
            "eps": 0.1,
            "mixed": zeros(*ROWS),
            **weights,
        },
        "attnres::depth_mix_backward": {
            "sources": sources,
            "query": normal(4),
            **weights,
            "gradient": normal(*ROWS),
            "before": [normal(*ROWS), zeros(0)],
            "after": [zeros(*ROWS), zeros(*ROWS)],
            "query_gradient": zeros(4),
        },
        "attnres::phase_one": {
            "sources": sources,
            "queries": normal(3, 4),
            "eps": 0.1,
            "mixed": [zeros(*ROWS) for _ in range(3)],
            "levels": zeros(3, 2, 3),
        },
        "attnres::phase_two": {
            "mixed": normal(*ROWS),
            "levels": normal(2, 3),
            "later": normal(*ROWS),
            "query": normal(4),
            "eps": 0.1,
            "merged": zeros(*ROWS),
        },
        "delta::delta_write": {
            "state": state,
            **heads,
            "erase": True,
            "eps": 0.1,
            "next": zeros(2, 3, 2, 4),
            "readout": zeros(2, 3, 3),
        },
        "delta::delta_write_backward": {
            "state": state,
            **heads,
            "erase": True,
            "readout": normal(2, 3, 3),
            "gradient": normal(2, 3, 2, 4),
            "to_state": zeros(2, 3, 2, 4),
            "to_branch": zeros(*ROWS),
            "to_beta": zeros(2, 3, 1),
            "to_value": zeros(2, 3, 2),
        },
        "delta::compress": {
            "state": state,
            "weight": normal(2, 4),
            "compressed": zeros(*ROWS),
        },
        "delta::compress_backward": {
            "state": state,
            "weight": normal(2, 4),
            "gradient": normal(*ROWS),
            "to_state": zeros(2, 3, 2, 4),
            "to_weight": zeros(2, 4),
        },
    }[operator]


WRONG = {
    "longer": lambda t: torch.cat([t, t]),
    "wider": lambda t: torch.cat([t, t], -1),
    "shorter": lambda t: t[:-1],
    "without channels": lambda t: t[..., :0],
    "one number": lambda t: t.flatten()[:1],
    "transposed": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
    "every other": lambda t: torch.cat([t, t], -1)[..., ::2],
    "expanded": lambda t: t[:1].expand(t.shape),
    "float32": lambda t: t.float(),
    "integers": lambda t: t.long(),
    "on no device": lambda t: t.to("meta"),
}
OPERATORS = [
    *["attnres::depth_mix", "attnres::depth_mix_backward", "attnres::phase_one"],
    *["attnres::phase_two", "delta::delta_write", "delta::delta_write_backward"],
    *["delta::compress", "delta::compress_backward"],
]


def run(operator: str, given: dict) -> None:
    family, name = operator.split("::")
    assert load_kernels(family)
    getattr(getattr(torch.ops, f"archzoo_{family}"), name)(*given.values())


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_takes_what_its_loops_assume(operator):
    run(operator, arguments(operator))


def tensors_of(given: dict) -> list[tuple[str, int | None, torch.Tensor]]:
    """Return every tensor with its argument, and its place where the argument is a list."""
    found = []
    for name, value in given.items():
        places = enumerate(value) if isinstance(value, list) else [(None, value)]
        found += [(name, place, t) for place, t in places if isinstance(t, torch.Tensor)]
    return found


def wrong_versions(operator: str, wrong: str):
    """Yield an operator's arguments with one tensor at a time replaced by a wrong one."""
    for name, place, right in tensors_of(arguments(operator)):
        # No bias and no gradient yet are empty tensors; a vector has nothing to transpose.
        optional = name in ("bias", "before")
        if right.numel() == 0 or (right.dim() == 1 and wrong == "transposed"):
            continue
        changed = WRONG[wrong](right)
        if optional and changed.numel() == 0:
            continue
        kinds = [(t.shape, t.stride(), t.dtype, t.device) for t in (changed, right)]
        if kinds[0] == kinds[1]:
            continue  # some lie the same either way
        given = arguments(operator)
        if place is None:
            given[name] = changed
        else:
            given[name][place] = changed
        yield name, given


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("operator", OPERATORS)
def test_a_wrong_tensor_is_refused_and_nothing_is_written(operator, wrong):
    for name, given in wrong_versions(operator, wrong):
        before = [t.clone() for _, _, t in tensors_of(given)]
        with pytest.raises(RuntimeError, match="has|must|hold|need|laid out"):
            run(operator, given)
        for (other, _, now), then in zip(tensors_of(given), before, strict=True):
            assert now.is_meta or torch.equal(now, then), (name, other)


@pytest.mark.parametrize("operator", OPERATORS[:3])
def test_lists_of_another_length_are_refused(operator):
    changes = [lambda ts: ts[:-1], lambda ts: [], lambda ts: [*ts, ts[0]]]
    for name in [name for name, value in arguments(operator).items() if isinstance(value, list)]:
        # Phase one takes any number of sources but none.
        free = (operator, name) == ("attnres::phase_one", "sources")
        for change in changes[1:2] if free else changes:
            given = arguments(operator)
            given[name] = change(given[name])
            with pytest.raises(RuntimeError, match="hold|empty"):
                run(operator, given)
