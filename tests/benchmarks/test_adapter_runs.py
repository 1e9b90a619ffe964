"""Comparisons of adapters: equal trained numbers, grids of rates, and what a claim needs."""

import math

import pytest
import torch
from archzoo.train.callbacks import callbacks
from archzoo.zoo import adapt, create_model


@pytest.fixture
def adapter_runs(script, monkeypatch):
    """The shared part, whose callback is known in this test only."""
    monkeypatch.setattr(callbacks, "_entries", dict(callbacks._entries))
    return script("adapter_runs")


@pytest.mark.parametrize(
    ("best", "tried"), [(3, [1, 2, 3, 4]), (1, [1, 2, 3, 0.5]), (9, [1, 2, 3, 4, 9])]
)
def test_a_grid_is_extended_while_the_best_rate_is_at_its_end(script, best, tried):
    asked = []

    def score(rate):
        asked.append(rate)
        return abs(math.log(rate / best))

    rate, scores = script("runs").best_rate(score, [1, 2, 3], [4, 9, 0.5])
    assert asked == tried
    assert scores.keys() == set(tried)
    assert rate == best


def test_a_claim_needs_two_standard_errors(script):
    claims = script("adapter_claims")
    said = [claims.Claim("a", "better", "b", ""), claims.Claim("b", "as good", "a", "")]

    def holds(a, b, **how):
        return [row["reproduced"] for row in claims.judged(said, {"a": a, "b": b}, **how)]

    assert holds([1.0, 1.1, 1.2], [2.0, 2.1, 2.2]) == [True, False]
    assert holds([1.0, 1.1, 1.2], [1.1, 1.2, 1.3]) == [False, True]
    assert holds([2.0, 2.1, 2.2], [1.0, 1.1, 1.2]) == [False, True]
    assert holds([2.0, 2.1, 2.2], [1.0, 1.1, 1.2], more_is_better=True) == [True, False]


def test_presets_have_the_size_that_trains_about_as_many_numbers_as_a_lora(adapter_runs):
    options = {"width": 64, "depth": 1, "num_heads": 1, "context_length": 8}
    task = adapter_runs.Task("gpt_nano", (), "bits_per_byte", ["embedding.*"], 8, options)
    sizes = adapter_runs.sized(task, 4)
    assert sizes["lora"] == {"rank": 4}
    for name in ("lora", "dora", "ffa_lora", "lora_xs", "miss", "randlora", "sara", "tlora"):
        model = create_model("gpt_nano", **options)
        targets = adapt(model, name, **sizes[name]).targets.values()
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        # A ring of tensors has the coarsest steps: 4 R² of its sides.
        assert 0.5 < trained / sum(4 * sum(target.shape) for target in targets) < 2
        assert trained == adapter_runs.numbers_of(name, sizes[name], targets)


def test_training_of_some_parameters_leaves_the_others_frozen(adapter_runs):
    class Run:
        model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 4))

    adapter_runs.TrainOnly(["1.*"]).start(Run)
    assert [p.requires_grad for p in Run.model.parameters()] == [False, False, True, True]
    with pytest.raises(ValueError, match=r"train_only.parameters=\['head'\] match nothing"):
        adapter_runs.TrainOnly(["head"]).start(Run)
