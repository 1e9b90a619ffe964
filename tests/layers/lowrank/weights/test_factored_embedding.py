"""Laws of a mimicked embedding: principal components of the look-ups, mean and error as stated."""

import pytest
import torch
from archzoo.layers.lowrank.weights.factored_embedding import FactoredEmbedding, mimicked_table
from archzoo.zoo.transform.mimic_embeddings import mimic_embeddings
from torch import Tensor, nn


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def counts(size: int) -> Tensor:
    """Look-ups that fall off as words do; the last row has none."""
    found = (100 / torch.arange(1, size + 1)).floor()
    found[-1] = 0
    return found


@pytest.mark.parametrize("rank", range(7))
def test_error_and_mean_over_the_look_ups_are_the_tail_and_the_mean_of_the_rows(rank):
    rows, seen = draw(30, 6) + 1.0, counts(30).double()
    found = mimicked_table(rows, seen, rank)
    share = seen / seen.sum()
    layer = FactoredEmbedding(*found[:3])
    outputs = layer(torch.arange(30)).detach()
    torch.testing.assert_close(share @ outputs, share @ rows, rtol=0.0, atol=1e-13)
    error = share @ (outputs - rows).square().sum(1)
    torch.testing.assert_close(error, found.eigenvalues[rank:].sum(), rtol=1e-10, atol=1e-13)
    if rank == 6:
        torch.testing.assert_close(outputs, rows, rtol=0.0, atol=1e-13)  # the unseen row too


def test_even_look_ups_make_it_the_principal_components_of_the_table():
    rows = draw(30, 6) + 1.0
    found = mimicked_table(rows, torch.ones(30), 2)
    centred = rows - rows.mean(0)
    u, s, v = torch.linalg.svd(centred, full_matrices=False)
    expected = (u[:, :2] * s[:2]) @ v[:2] + rows.mean(0)
    layer = FactoredEmbedding(*found[:3])
    torch.testing.assert_close(layer.weight.detach(), expected, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(layer.to_dense().weight.detach(), expected, rtol=0.0, atol=1e-12)


def words(**options: object) -> nn.Sequential:
    torch.manual_seed(0)
    embedding = nn.Embedding(40, 8, **options)  # type: ignore[arg-type]
    return nn.Sequential(embedding, nn.Linear(8, 40)).double()


def test_a_model_counts_its_look_ups_and_is_left_as_it_is():
    model, index = words(), torch.randint(0, 39, (3, 50), generator=torch.manual_seed(1))
    small = mimic_embeddings(model, {"0": 3}, list(index))
    assert isinstance(small[0], FactoredEmbedding) and isinstance(model[0], nn.Embedding)
    seen = torch.bincount(index.flatten(), minlength=40)
    expected = FactoredEmbedding(*mimicked_table(model[0].weight.detach(), seen, 3)[:3])
    assert torch.equal(small[0](index), expected(index))
    assert sum(p.numel() for p in small[0].parameters()) == 3 * 48 + 8


def tied() -> nn.Sequential:
    model = words()
    model[1].weight = model[0].weight
    return model


BAD = {
    "'1' is no nn.Embedding of the model; it has 0": lambda: mimic_embeddings(
        words(), {"1": 2}, []
    ),
    "0 is tied: 0.weight and 1.weight": lambda: mimic_embeddings(tied(), {"0": 2}, []),
    "0 has max_norm": lambda: mimic_embeddings(words(padding_idx=0), {"0": 2}, []),
    r"rank=7 makes 0 \(40x8\) no smaller; a rank from 1 to 6": (
        lambda: mimic_embeddings(words(), {"0": 7}, [])
    ),
    "0 was never looked up": lambda: mimic_embeddings(words(), {"0": 2}, []),
    "counts must be 3 numbers": lambda: mimicked_table(draw(3, 2), torch.ones(4), 1),
    r"rank must lie in \[0, 2\]": lambda: mimicked_table(draw(3, 2), torch.ones(3), 3),
}


@pytest.mark.parametrize(("message", "call"), BAD.items())
def test_bad_input_is_refused_by_name(message, call):
    with pytest.raises(ValueError, match=message):
        call()
