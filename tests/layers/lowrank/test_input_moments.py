"""Moments of inputs, what published decompositions make of them, and batch norm taken anew."""

import copy

import pytest
import torch
from archzoo.layers.hyperbolic import MidpointBatchNorm
from archzoo.layers.lowrank.batch_norm import reestimate_batch_norm
from archzoo.layers.lowrank.input_moments import collect_moments
from archzoo.layers.lowrank.maths.calibrated import CASES, calibrated_svd, compensate, refit_left
from archzoo.layers.lowrank.maths.decompose import weighted_svd
from archzoo.layers.lowrank.maths.moments import InputMoments, OutputMoments
from archzoo.layers.lowrank.weights.unfolding import Unfolding
from torch import Tensor, nn
from torch.nn import functional as F

# Sums of a few hundred products of float64 normals, in another order.
TOL = {"rtol": 1e-11, "atol": 1e-11}


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(),
        nn.Linear(4 * 16, 5), nn.ReLU(), nn.Linear(5, 2),
    ).double()  # fmt: skip


def batches(count: int = 3) -> list[Tensor]:
    return [draw(2 + i, 3, 4, 4, seed=i) for i in range(count)]


def moments_of(x: Tensor) -> InputMoments:
    """Return the moments of vectors (N, n)."""
    moments = InputMoments.empty((x.shape[1],), x.device)
    moments.add(x.mT)
    return moments


def correlated(count: int = 400) -> Tensor:
    """Return inputs (N, 6) as they are after a ReLU: correlated, and of a mean far from zero."""
    return F.relu(draw(count, 6) @ draw(6, 6, seed=1) + 1.0)


class TestCollecting:
    def test_sums_over_batches_are_those_over_all_data(self):
        model = network().eval()
        seen = torch.cat([model[:5](x) for x in batches()]).detach()
        found = collect_moments(model, batches(), ["5"])["5"]
        assert found.count == len(seen)
        torch.testing.assert_close(found.mean, seen.mean(0), **TOL)
        torch.testing.assert_close(found.mean_magnitude, seen.abs().mean(0), **TOL)
        torch.testing.assert_close(found.second_moment, seen.mT @ seen / len(seen), **TOL)
        torch.testing.assert_close(found.covariance, torch.cov(seen.mT, correction=0), **TOL)

    @pytest.mark.parametrize(
        "options",
        [
            {"padding": 1, "stride": 2},
            {"groups": 2, "dilation": (1, 2), "padding": "same", "padding_mode": "reflect"},
            {"padding": (0, 2), "padding_mode": "circular", "bias": False},
        ],
        ids=str,
    )
    def test_the_patches_of_a_convolution_are_what_its_matrix_multiplies(self, options):
        conv = nn.Conv2d(4, 6, 3, **{"bias": False, **options}).double()
        model, data = nn.Sequential(conv), [draw(2, 4, 7, 6, seed=s) for s in range(2)]
        found = collect_moments(model, data, ["0"])["0"]
        unfolding = Unfolding("channel", tuple(conv.weight.shape), conv.groups)
        matrix = unfolding.to_matrix(conv.weight.detach())
        bias = 0.0 if conv.bias is None else conv.bias.detach().view(-1, 1, 1)
        outputs = torch.cat([conv(x).detach() - bias for x in data])
        outputs = outputs.movedim(1, 0).flatten(1)  # (6, N)
        assert found.count == outputs.shape[1]
        torch.testing.assert_close(
            (matrix @ found.mean[..., None]).flatten(), outputs.mean(1), **TOL
        )
        grouped = outputs.view(*matrix.shape[:-1], -1)
        expected = grouped @ grouped.mT / found.count
        torch.testing.assert_close(matrix @ found.second_moment @ matrix.mT, expected, **TOL)

    def test_chunks_of_patches_add_up(self, monkeypatch):
        model = network()
        whole = collect_moments(model, batches(), ["0"])["0"]
        monkeypatch.setattr("archzoo.layers.lowrank.input_moments.CHUNK", 1)
        single = collect_moments(model, batches(), ["0"])["0"]
        assert single.count == whole.count
        torch.testing.assert_close(single.second, whole.second, **TOL)

    @pytest.mark.parametrize("groups", [1, 2])
    def test_moments_of_outputs_are_those_of_the_matrix_times_those_of_inputs(self, groups):
        conv = nn.Conv2d(4, 6, 3, groups=groups).double()
        model, data = nn.Sequential(conv), [draw(2, 4, 7, 6, seed=s) for s in range(2)]
        matrix = Unfolding("channel", tuple(conv.weight.shape), groups).to_matrix(conv.weight)
        matrix = matrix.detach()
        inputs = collect_moments(model, data, ["0"])["0"]
        outputs = collect_moments(model, data, ["0"], matrices={"0": matrix})["0"]
        assert outputs.count == inputs.count
        torch.testing.assert_close(outputs.mean, inputs.mean, **TOL)
        for kind in ("second_moment", "covariance"):
            expected = matrix @ getattr(inputs, kind) @ matrix.mT
            torch.testing.assert_close(getattr(outputs, kind), expected, **TOL)

    def test_the_fisher_diagonal_is_the_mean_squared_gradient(self):
        model = network().eval()
        data = [(x, torch.arange(len(x)) % 2) for x in batches()]

        def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            return F.cross_entropy(model(batch[0]), batch[1])

        found = collect_moments(model, data, ["0", "5"], forward=loss, fisher=True)
        for name in ("0", "5"):
            weight = model.get_submodule(name).weight
            squares = [torch.autograd.grad(loss(model, b), weight)[0] ** 2 for b in data]
            expected = torch.stack(squares).mean(0).flatten(1)
            torch.testing.assert_close(found[name].fisher, expected, **TOL)
        assert all(p.grad is None for p in model.parameters())

    @pytest.mark.parametrize("fails", [False, True])
    def test_the_model_is_left_as_it_was(self, fails):
        model = network()
        model[1].eval()
        before, flags = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
        data = [*batches(), draw(2, 9)] if fails else batches()
        if fails:
            with pytest.raises(RuntimeError):
                collect_moments(model, data, ["0"])
        else:
            collect_moments(model, data, ["0"])
        assert [m.training for m in model.modules()] == flags
        assert all(not m._forward_pre_hooks for m in model.modules())
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name])

    def test_what_cannot_be_counted_is_refused_by_name(self):
        model = network()
        with pytest.raises(ValueError, match="the model has no layer '9'"):
            collect_moments(model, batches(), ["9"])
        with pytest.raises(ValueError, match="1 is a BatchNorm2d; moments are taken of linear"):
            collect_moments(model, batches(), ["1"])
        with pytest.raises(ValueError, match="batches is empty"):
            collect_moments(model, [], ["0"])
        with pytest.raises(ValueError, match="the input of 5 holds NaN"):
            collect_moments(model, [batches()[0] * torch.nan], ["5"])
        with pytest.raises(ValueError, match="5 did not run in the forward pass"):
            collect_moments(model, batches(), ["5"], forward=lambda m, x: m[0](x))
        model[5].requires_grad_(False)
        with pytest.raises(ValueError, match="5 has no trained weight"):
            collect_moments(model, batches(), ["5"], fisher=True)


class TestPublishedCases:
    @pytest.mark.parametrize("rank", [0, 2, 5])
    def test_feature_mimicking_is_the_principal_components_of_the_outputs(self, rank):
        x, weight, bias = correlated(), draw(7, 6, seed=2), draw(7, seed=3)
        found = calibrated_svd(
            weight, rank, "feature_mimicking", moments_of(x), bias=bias, damping=0.0
        )
        y = x @ weight.mT + bias
        values, vectors = torch.linalg.eigh(torch.cov(y.mT, correction=0))
        kept = vectors.flip(-1)[:, :rank]
        first, second = (
            (kept.mT @ weight, kept.mT @ bias),
            (kept, y.mean(0) - kept @ kept.mT @ y.mean(0)),
        )
        mimicked = (x @ first[0].mT + first[1]) @ second[0].mT + second[1]
        ours = x @ (found.left @ found.right).mT + found.bias
        torch.testing.assert_close(ours, mimicked, rtol=0.0, atol=1e-10)
        error = (ours - y).square().sum(1).mean()
        torch.testing.assert_close(error, values.flip(0)[rank:].sum(), rtol=1e-9, atol=1e-11)

    def test_the_mean_matters_where_it_is_not_zero(self):
        x, weight = correlated(), draw(7, 6, seed=2)
        moments, y = moments_of(x), x @ weight.mT
        errors = {}
        for case in ("svd", "svd_llm", "feature_mimicking"):
            found = calibrated_svd(weight, 2, case, moments)
            out = x @ (found.left @ found.right).mT + (0.0 if found.bias is None else found.bias)
            errors[case] = float((out - y).square().sum(1).mean())
        assert errors["feature_mimicking"] < errors["svd_llm"] < errors["svd"]

    def test_restoring_a_compressed_weight_leaves_the_predicted_error(self):
        x, weight = correlated(), draw(7, 6, seed=2)
        compressed = (weight * 2).round() / 2
        left, right, values = compensate(weight, compressed, moments_of(x), 2, damping=0.0)
        error = (x @ (weight - compressed - left @ right).mT).square().sum(1).mean()
        torch.testing.assert_close(error, values[2:].square().sum(), rtol=1e-11, atol=1e-13)
        plain = weighted_svd(weight - compressed, 2)
        other = (x @ (weight - compressed - plain.left @ plain.right).mT).square().sum(1).mean()
        assert error < other

    def test_restoring_is_the_published_formula(self):
        x, weight = correlated(), draw(7, 6, seed=2)
        compressed = (weight * 2).round() / 2
        eigenvalues, basis = torch.linalg.eigh(x.mT @ x / len(x))
        scaling = basis * eigenvalues.sqrt()
        u, s, v = torch.linalg.svd((weight - compressed) @ scaling, full_matrices=False)
        b, a = u[:, :2] * s[:2].sqrt(), (s[:2].sqrt()[:, None] * v[:2]) @ torch.linalg.inv(scaling)
        left, right, _ = compensate(weight, compressed, moments_of(x), 2, damping=0.0)
        torch.testing.assert_close(left @ right, b @ a, rtol=0.0, atol=1e-12)

    @pytest.mark.parametrize("case", CASES)
    def test_every_case_keeps_the_weight_at_full_rank_with_less_data_than_columns(self, case):
        x, weight = correlated(4), draw(7, 6, seed=2)
        moments = moments_of(x)
        moments.fisher = draw(7, 6, seed=5) ** 2
        found = calibrated_svd(weight, 6, case, moments, bias=draw(7))
        # The damped root has a condition number of some 1e3.
        torch.testing.assert_close(found.left @ found.right, weight, rtol=0.0, atol=1e-9)
        torch.testing.assert_close(found.bias, draw(7), rtol=0.0, atol=1e-9)

    @pytest.mark.parametrize("case", CASES)
    @pytest.mark.parametrize("shape", [(4, 6), (7, 6)], ids=str)
    def test_every_case_is_the_same_from_the_moments_of_outputs(self, case, shape):
        x, weight = correlated(), draw(*shape, seed=2)
        inputs, outputs = moments_of(x), OutputMoments.empty(weight)
        outputs.add(x.mT)
        inputs.fisher = outputs.fisher = draw(*shape, seed=5) ** 2
        for rank in (1, 3):
            one = calibrated_svd(weight, rank, case, inputs, damping=0.0)
            two = calibrated_svd(weight, rank, case, outputs, damping=0.0)
            product = one.left @ one.right
            torch.testing.assert_close(two.left @ two.right, product, rtol=0.0, atol=1e-9)
            assert (one.bias is None) == (two.bias is None)
            if one.bias is not None:
                torch.testing.assert_close(two.bias, one.bias, rtol=0.0, atol=1e-9)

    def test_restoring_is_the_same_from_the_moments_of_what_was_left_out(self):
        x, weight = correlated(), draw(4, 6, seed=2)
        compressed = (weight * 2).round() / 2
        outputs = OutputMoments.empty(weight - compressed)
        outputs.add(x.mT)
        one = compensate(weight, compressed, moments_of(x), 2, damping=0.0)
        two = compensate(weight, compressed, outputs, 2)
        torch.testing.assert_close(two.left @ two.right, one.left @ one.right, rtol=0.0, atol=1e-10)

    def test_the_order_of_the_batches_does_not_matter_to_what_is_restored(self):
        x, weight = correlated(), draw(4, 6, seed=2)
        found = []
        for order in (range(4), reversed(range(4))):
            moments = InputMoments.empty((6,), x.device)
            for part in order:
                moments.add(x[100 * part : 100 * part + 100].mT)
            left, right, _ = compensate(weight, weight.round(), moments, 2)
            found.append(left @ right)
        torch.testing.assert_close(found[0], found[1], rtol=0.0, atol=1e-11)

    def test_white_inputs_make_restoring_the_plain_svd(self):
        weight = draw(4, 6, seed=2)
        white = InputMoments(6, torch.zeros(6).double(), torch.ones(6).double(), 6 * torch.eye(6))
        left, right, _ = compensate(weight, weight.round(), white, 2, damping=0.0)
        plain = weighted_svd(weight - weight.round(), 2)
        torch.testing.assert_close(left @ right, plain.left @ plain.right, rtol=0.0, atol=1e-11)

    def test_moments_of_another_layer_or_matrix_are_refused(self):
        x, weight = correlated(), draw(4, 6, seed=2)
        outputs = OutputMoments.empty(weight)
        outputs.add(x.mT)
        with pytest.raises(ValueError, match="what another matrix makes of its inputs"):
            calibrated_svd(2 * weight, 2, "svd_llm", outputs)
        for moments in (moments_of(x), outputs):
            with pytest.raises(ValueError, match=r"moments are of another layer.*takes \(5,\)"):
                calibrated_svd(draw(4, 5), 2, "svd_llm", moments)

    @pytest.mark.parametrize("case", CASES)
    def test_groups_of_a_convolution_are_weighted_each_by_its_own_data(self, case):
        conv = nn.Conv2d(4, 6, 3, groups=2).double()
        moments = collect_moments(nn.Sequential(conv), [draw(3, 4, 6, 6)], ["0"])["0"]
        matrix = Unfolding("channel", (6, 2, 3, 3), 2).to_matrix(conv.weight.detach())
        moments.fisher = draw(2, 3, 18) ** 2
        bias = conv.bias.detach()
        whole = calibrated_svd(matrix, 2, case, moments, bias=bias)
        for g in range(2):
            own = InputMoments(
                moments.count, moments.total[g], moments.magnitude[g], moments.second[g],
                moments.fisher[g],
            )  # fmt: skip
            single = calibrated_svd(matrix[g], 2, case, own, bias=bias[3 * g : 3 * g + 3])
            torch.testing.assert_close(
                whole.left[g] @ whole.right[g], single.left @ single.right, **TOL
            )
            torch.testing.assert_close(whole.bias[3 * g : 3 * g + 3], single.bias, **TOL)

    def test_refitting_the_left_factor_changes_nothing_until_the_inputs_change(self):
        weight, before = draw(7, 6, seed=2), moments_of(correlated()).second_moment
        left, right, _ = weighted_svd(weight, 2, right_moment=before)
        torch.testing.assert_close(refit_left(weight, right, before), left, **TOL)
        after = moments_of(correlated() + draw(400, 6, seed=4)).second_moment

        def error(u: Tensor) -> Tensor:
            gap = weight - u @ right
            return (gap @ after * gap).sum()

        best = error(refit_left(weight, right, after))
        assert best < error(left)
        for seed in range(20):
            nearby = refit_left(weight, right, after) + 1e-3 * draw(7, 2, seed=seed)
            assert error(nearby) > best

    def test_bad_arguments_are_refused_by_name(self):
        moments = moments_of(correlated())
        with pytest.raises(ValueError, match="case must be one of .*, got 'pca'"):
            calibrated_svd(draw(7, 6), 2, "pca", moments)
        with pytest.raises(ValueError, match="fwsvd needs squared gradients"):
            calibrated_svd(draw(7, 6), 2, "fwsvd", moments)


class TestBatchNorm:
    def test_statistics_become_the_mean_of_those_of_the_batches(self):
        model = network()
        model[1].running_mean.fill_(9.0)
        names = reestimate_batch_norm(model, batches())
        outputs = [model[0](x).detach().movedim(1, 0).flatten(1) for x in batches()]
        assert names == ["1"]
        mean = torch.stack([o.mean(1) for o in outputs]).mean(0)
        variance = torch.stack([o.var(1) for o in outputs]).mean(0)
        torch.testing.assert_close(model[1].running_mean, mean, **TOL)
        torch.testing.assert_close(model[1].running_var, variance, **TOL)
        assert int(model[1].num_batches_tracked) == 3

    def test_momenta_and_training_flags_are_as_they_were(self):
        model = network()
        model[1].momentum, model[1].training = 0.3, False
        flags = [m.training for m in model.modules()]
        reestimate_batch_norm(model, batches())
        assert model[1].momentum == 0.3
        assert [m.training for m in model.modules()] == flags

    def test_an_error_leaves_the_statistics_alone(self):
        model = network()
        model[1].running_mean.fill_(9.0)
        before = copy.deepcopy(model.state_dict())
        for data, error in ((batches() + [draw(2, 9)], RuntimeError), ([], ValueError)):
            with pytest.raises(error):
                reestimate_batch_norm(model, data)
            for name, value in model.state_dict().items():
                assert torch.equal(value, before[name])
            assert model[1].momentum == 0.1 and model.training

    def test_dropout_stays_off(self):
        model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(4)).double()
        x = draw(8, 4)
        reestimate_batch_norm(model, [x])
        torch.testing.assert_close(model[1].running_mean, x.mean(0), **TOL)

    def test_the_midpoint_norm_is_one_of_them(self):
        model = nn.Sequential(MidpointBatchNorm(4)).double()
        x = draw(16, 4)
        assert reestimate_batch_norm(model, [x, x]) == ["0"]
        expected = model(x)
        assert model[0].momentum == 0.1
        # eval reproduces the normalisation of the batch that it saw; squares of small distances.
        torch.testing.assert_close(model.eval()(x), expected, rtol=1e-9, atol=1e-10)

    def test_without_statistics_there_is_nothing_to_do(self):
        model = nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), nn.LayerNorm(4))
        assert reestimate_batch_norm(model, []) == []
