"""Each figure is its formula, in float64, and what scikit-learn and torchmetrics say."""

import math

import pytest
import torch
from archzoo.train.measures.classification import (
    Outcomes,
    accuracy,
    all_outcomes,
    brier_score,
    calibration_error,
    class_accuracies,
    confusion_matrix,
    negative_log_likelihood,
    outcomes,
    summary,
    top_accuracy,
)

CASES = {"ten classes": (97, 10), "two": (31, 2), "one": (5, 1), "one sample": (1, 7)}


def drawn(samples: int, classes: int, dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(samples)
    logits = 3 * torch.randn(samples, classes, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, classes, (samples,), generator=generator)
    return logits.to(dtype), targets


@pytest.mark.parametrize("case", CASES)
def test_the_figures_are_their_formulas_sample_by_sample(case):
    logits, targets = drawn(*CASES[case])
    found = outcomes(logits, targets)
    hits, fives, losses, squares = [], [], [], []
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(15)]
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        total = math.fsum(map(math.exp, row))
        p = [math.exp(z) / total for z in row]
        order = sorted(range(len(p)), key=lambda k: -p[k])
        hits.append(order[0] == target)
        bins[min(14, int(15 * max(p)))].append((max(p), hits[-1]))
        fives.append(target in order[:5])
        losses.append(-math.log(p[target]))
        squares.append(math.fsum((q - (k == target)) ** 2 for k, q in enumerate(p)))
    n = len(hits)
    close = {"rel": 1e-12, "abs": 1e-12}
    assert accuracy(found) == pytest.approx(sum(hits) / n, **close)
    assert top_accuracy(found, 1) == accuracy(found)
    assert top_accuracy(found, 5) == pytest.approx(sum(fives) / n, **close)
    assert negative_log_likelihood(found) == pytest.approx(math.fsum(losses) / n, **close)
    assert brier_score(found) == pytest.approx(math.fsum(squares) / n, **close)
    gaps = [abs(math.fsum(p - hit for p, hit in part)) for part in bins]
    assert calibration_error(found) == pytest.approx(math.fsum(gaps) / n, **close)


def test_the_figures_are_those_of_scikit_learn():
    from sklearn import metrics

    logits, targets = drawn(97, 10)
    found, p = outcomes(logits, targets), logits.softmax(1).numpy()
    y, names = targets.numpy(), list(range(10))
    assert accuracy(found) == pytest.approx(metrics.accuracy_score(y, p.argmax(1)))
    assert top_accuracy(found, 5) == metrics.top_k_accuracy_score(y, p, k=5, labels=names)
    assert negative_log_likelihood(found) == pytest.approx(metrics.log_loss(y, p, labels=names))
    expected = metrics.confusion_matrix(y, p.argmax(1), labels=names)
    confusion = confusion_matrix(found, 10)
    assert confusion.tolist() == expected.tolist()
    recall = metrics.recall_score(y, p.argmax(1), average=None, labels=names)
    assert class_accuracies(confusion) == pytest.approx(recall.tolist())


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_the_calibration_error_is_that_of_torchmetrics(bins):
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, targets = drawn(97, 10)
    expected = multiclass_calibration_error(logits.softmax(1), targets, 10, bins, norm="l1")
    # torchmetrics rounds confidences to float32.
    assert calibration_error(outcomes(logits, targets), bins) == pytest.approx(
        float(expected), rel=1e-6
    )


def made(confidence: list[float], right: list[bool]) -> Outcomes:
    y = torch.zeros(len(right), dtype=torch.int64)
    none = torch.zeros(len(right), dtype=torch.float64)
    predicted = torch.tensor([0 if hit else 1 for hit in right])
    sure = torch.tensor(confidence, dtype=torch.float64)
    return Outcomes(y, predicted, none, sure, none, y)


def test_what_is_sure_is_in_the_bin_of_what_is_nearly_sure():
    found = made([1.0, 1.0, 0.96, 0.3], [True, False, True, False])
    assert calibration_error(found) == pytest.approx((abs(2 - 2.96) + 0.3) / 4, rel=1e-12)
    assert calibration_error(made([1.0], [True])) == 0
    assert calibration_error(made([1.0], [False])) == 1


def test_equal_logits_are_ranked_by_index_as_argmax_does():
    found = outcomes(torch.zeros(4, 4), torch.arange(4))
    assert found.rank.tolist() == [0, 1, 2, 3]
    assert found.predicted.tolist() == [0, 0, 0, 0]
    assert accuracy(found) == top_accuracy(found, 1) == 0.25


def test_batches_of_any_size_say_the_same():
    logits, targets = drawn(97, 10)
    whole = outcomes(logits, targets)
    pieces = all_outcomes(zip(logits.split(13), targets.split(13), strict=True))
    assert all(torch.equal(one, other) for one, other in zip(whole, pieces, strict=True))


def test_padded_tokens_count_nowhere():
    logits, targets = drawn(24, 6)
    padded = targets.clone()
    padded[5:9] = -100
    kept = padded != -100
    found = outcomes(logits.view(4, 6, 6), padded.view(4, 6))
    alone = outcomes(logits[kept], targets[kept])
    assert all(torch.equal(one, other) for one, other in zip(found, alone, strict=True))
    figures = summary(found, 6, tokens=True)
    assert figures["samples"] == 20
    assert figures["bits"] == pytest.approx(figures["nll"] / math.log(2), rel=1e-15)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_logits_are_measured_as_the_numbers_that_they_are(dtype):
    logits, targets = drawn(31, 10, dtype)
    narrow, wide = outcomes(logits, targets), outcomes(logits.double(), targets)
    assert all(torch.equal(one, other) for one, other in zip(narrow, wide, strict=True))
    assert narrow.surprise.dtype == torch.float64


def test_huge_logits_have_a_finite_likelihood():
    found = outcomes(torch.tensor([[1e4, -1e4]]), torch.tensor([1]))
    assert negative_log_likelihood(found) == 2e4


def test_five_of_five_classes_are_no_figure():
    few, many = (summary(outcomes(*drawn(9, k)), k) for k in (5, 6))
    assert "top5" not in few and "bits" not in few
    assert 0 <= many["top5"] <= 1


def test_a_class_without_samples_has_no_accuracy():
    found = outcomes(torch.eye(3), torch.tensor([0, 0, 2]))
    assert class_accuracies(confusion_matrix(found, 3)) == [0.5, None, 1.0]


BAD = {
    r"the logits hold 1 numbers that are not finite": ([[0.0, math.nan]], [0]),
    r"the logits hold 2 numbers": ([[math.inf, -math.inf]], [0]),
    r"targets must lie in \[0, 1\], got 0 to 2": ([[0.0, 1.0]] * 2, [0, 2]),
    r"targets must lie in \[0, 1\], got -1 to 0": ([[0.0, 1.0]] * 2, [0, -1]),
    r"got \(3,\)": ([[0.0, 1.0]] * 2, [0, 1, 0]),
}


@pytest.mark.parametrize(("message", "case"), BAD.items())
def test_what_has_no_figure_is_refused_in_one_line(message, case):
    logits, targets = case
    with pytest.raises(ValueError, match=message) as caught:
        outcomes(torch.tensor(logits), torch.tensor(targets))
    assert "\n" not in str(caught.value)


def test_nothing_has_no_mean():
    for batches in ([], [(torch.zeros(2, 3), torch.tensor([-100, -100]))]):
        with pytest.raises(ValueError, match="there is no sample to measure on"):
            all_outcomes(batches)
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        calibration_error(made([0.5], [True]), 0)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        top_accuracy(made([0.5], [True]), 0)
