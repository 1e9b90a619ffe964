"""Frozen routing belongs to the thread that entered it, and to what it recomputes."""

import threading

import pytest
import torch
from archzoo.layers.residual import frozen_routing
from archzoo.layers.residual.stream import routing, routing_is_frozen
from archzoo.zoo import create_model, residuals

from ...zoo.small_models import fits


def test_one_thread_inside_does_not_freeze_another():
    inside, done, seen = threading.Event(), threading.Event(), {}

    def freeze() -> None:
        with frozen_routing():
            inside.set()
            assert done.wait(10)
            seen["inside"] = routing_is_frozen()
        seen["after"] = routing_is_frozen()

    thread = threading.Thread(target=freeze)
    thread.start()
    assert inside.wait(10)
    weights = torch.ones(2, requires_grad=True)
    seen["other"] = routing(weights) is weights and not routing_is_frozen()
    with frozen_routing():  # left in another order than it was entered in
        done.set()
        thread.join()
        assert routing_is_frozen()
    assert seen == {"inside": True, "after": False, "other": True}
    assert not routing_is_frozen()


def test_contexts_nest_and_end_with_an_error():
    try:
        with frozen_routing():
            with frozen_routing(False):
                assert not routing_is_frozen()
            assert routing_is_frozen()
            raise KeyError
    except KeyError:
        pass
    assert not routing_is_frozen()


@pytest.mark.compiles
def test_a_compiled_function_follows_the_context():
    weights, x = torch.ones(2, requires_grad=True), torch.ones(2)
    compiled = torch.compile(lambda x: x * routing(weights), fullgraph=True, backend="eager")
    assert compiled(x).requires_grad
    with frozen_routing():
        assert not compiled(x).requires_grad
    assert compiled(x).requires_grad


def gradients(residual: str, recomputed: bool, thread: bool) -> dict[str, torch.Tensor]:
    """Of a frozen forward whose backward pass runs outside, possibly in a thread of its own."""
    torch.manual_seed(0)
    name = "mlp_nano" if fits("mlp_nano", residual) else "vit_nano"
    model = create_model(name, residual=residual)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    model.set_grad_checkpointing(recomputed)
    x = torch.randn(4, *model.default_cfg["input_size"])
    with frozen_routing():
        loss = model(x).square().sum()
    if thread:
        other = threading.Thread(target=loss.backward)
        other.start()
        other.join()
    else:
        loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("thread", [False, True])
@pytest.mark.parametrize("residual", residuals.names())
def test_a_recomputation_runs_in_the_context_of_its_forward(residual, thread):
    plain = gradients(residual, recomputed=False, thread=False)
    found = gradients(residual, recomputed=True, thread=thread)
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[name], plain[name]) for name in plain)
