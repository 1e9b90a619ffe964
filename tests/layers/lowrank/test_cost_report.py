"""Laws of what is counted: the published memory table, ranks, multiplications and spectra."""

import pytest
import torch
from archzoo.layers.lowrank import (
    Factors,
    LowRank,
    Maestro,
    MemoryReport,
    SLTrain,
    lowrank_report,
    memory_report,
    merge,
    reparametrize,
    spectra,
)
from torch import nn

# hidden, ffn, layers, rank, density, and as published: millions of parameters and 1e9 bytes of full
# rank, low rank and SLTrain, bytes of GaLore (a range where tables differ).
PUBLISHED = {
    "60M": (512, 1376, 8, 128, 0.03, (58.1, 0.35), (42.8, 0.26), (43.5, 0.27), (0.28, 0.28)),
    "130M": (768, 2048, 12, 256, 0.03, (134.1, 0.80), (94.0, 0.56), (96.5, 0.60), (0.61, 0.61)),
    "350M": (1024, 2736, 24, 256, 0.03, (368.0, 2.21), (185.2, 1.11), (194.3, 1.24), (1.39, 1.6)),
    "1B": (2048, 5461, 24, 512, 0.03, (1339, 8.03), (609, 3.66), (646, 4.16), (4.76, 4.76)),
    "7B": (4096, 11008, 32, 1024, 0.05, (6738, 40.4), (2821, 16.9), (3145, 21.5), (22.9, 22.9)),
}
EXACT = {  # parameters of full rank, low rank and SLTrain, from the shapes alone
    "60M": (58_073_600, 42_770_944, 43_529_832),
    "130M": (134_105_856, 93_997_824, 96_545_796),
    "350M": (367_969_280, 185_222_144, 194_293_544),
    "1B": (1_339_082_752, 609_310_720, 645_547_960),
    "7B": (6_738_415_616, 2_820_935_680, 3_144_735_808),
}
LITERATURE = {"weight_bytes": 2, "moment_bytes": 2, "index_bytes": 8}
MATRICES = ("q", "k", "v", "o", "gate", "up", "down")


def llama(hidden: int, ffn: int, layers: int) -> nn.Module:
    """The parameters of a LLaMA, untied, without memory for them."""
    shapes = {name: (hidden, hidden) for name in "qkvo"}
    shapes |= {"gate": (hidden, ffn), "up": (hidden, ffn), "down": (ffn, hidden)}
    with torch.device("meta"):
        blocks = [
            nn.ModuleDict(
                {name: nn.Linear(*shape, bias=False) for name, shape in shapes.items()}
                | {"attention_norm": nn.RMSNorm(hidden), "mlp_norm": nn.RMSNorm(hidden)}
            )
            for _ in range(layers)
        ]
        return nn.ModuleDict(
            {
                "embedding": nn.Embedding(32000, hidden),
                "blocks": nn.ModuleList(blocks),
                "norm": nn.RMSNorm(hidden),
                "lm_head": nn.Linear(hidden, 32000, bias=False),
            }
        )


def rounded(report: MemoryReport, digits: tuple[float, float]) -> None:
    """Compare with what is printed, to half a unit of the last printed digit."""
    millions, billions = digits
    unit = 1.0 if millions >= 500 else 0.1
    assert report.parameters / 1e6 == pytest.approx(millions, abs=unit / 2)
    assert report.estimate / 1e9 == pytest.approx(billions, abs=0.05 if billions > 10 else 0.005)


@pytest.mark.parametrize("size", PUBLISHED)
def test_the_published_memory_table_comes_out(size: str) -> None:
    hidden, ffn, layers, rank, density, full, low, sparse, galore = PUBLISHED[size]
    model = llama(hidden, ffn, layers)
    found = [memory_report(model, **LITERATURE)]
    rounded(found[0], full)
    names = [f"blocks.{i}.{name}.weight" for i in range(layers) for name in MATRICES]
    projected = memory_report(model, projected_rank=rank, projected=names, **LITERATURE)
    least, most = galore
    assert least - 0.05 * (least > 10) - 0.005 <= projected.estimate / 1e9 <= most + 0.05
    for method, printed in (
        (LowRank(rank=rank, init="zero"), low),
        (SLTrain(rank=rank, density=density), sparse),
    ):
        model = llama(hidden, ffn, layers)
        # The paper factors every projection, also where r (m + n) is not below m n.
        reparametrize(model, method, [f"blocks.*.{name}" for name in MATRICES])
        found.append(memory_report(model, **LITERATURE))
        rounded(found[-1], printed)
    assert tuple(report.parameters for report in found) == EXACT[size]
    int32 = memory_report(model, weight_bytes=2, moment_bytes=2)
    assert 2 * int32.index_bytes == found[-1].index_bytes


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 20)
    )


def test_a_report_counts_ranks_parameters_and_multiplications() -> None:
    model = network()
    reparametrize(model, LowRank(rank=2), ["0", "3"])
    conv, linear = lowrank_report(model, torch.randn(1, 3, 8, 8))
    assert (conv.name, conv.rank, conv.full_rank, conv.scheme) == ("0", 2, 8, "channel")
    assert conv.parameters == conv.trained == 2 * (8 + 27)
    assert conv.macs == 16 * conv.parameters and conv.dense_macs == 16 * conv.dense_parameters
    assert linear.parameters == linear.macs == 2 * (128 + 20)
    assert linear.dense_macs == linear.dense_parameters == 128 * 20
    assert linear.break_even == 128 * 20 / 148


def test_a_report_on_a_full_rank_network_is_honest_about_its_size() -> None:
    # LeNet by Maestro: 44,426 parameters become 66,274 at full rank.
    model = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip
    model[0].padding = (0, 0)
    assert memory_report(model).parameters == 44_426
    reparametrize(model, Maestro(), ["0", "3", "7", "9", "11"])
    assert memory_report(model).parameters == 66_274
    assert sum(row.macs or 0 for row in lowrank_report(model, torch.zeros(1, 1, 28, 28))) > 281_640


def test_activations_of_a_step_are_counted_without_the_parameters() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
    sample = torch.randn(3, 6)
    report = memory_report(model, sample)
    # The sample, the tanh's output, which is also the next layer's input.
    assert report.activation_bytes == 4 * (3 * 6 + 3 * 5)
    assert report.gradient_bytes == report.weight_bytes == 4 * report.parameters
    assert report.optimizer_bytes == 2 * report.weight_bytes


def test_spectra_are_those_of_the_merged_weights() -> None:
    model = network().double()
    reparametrize(model, LowRank(rank=4), ["0", "3"])
    found = spectra(model)
    structure = model[3].structure
    assert isinstance(structure, Factors)
    merge(model)
    for name, matrix in {"0": model[0].weight.flatten(1), "3": model[3].weight}.items():
        expected = torch.linalg.svdvals(matrix)
        torch.testing.assert_close(found[name], expected[:4])


def test_a_ruined_weight_without_a_spectrum_is_named() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 8))
    reparametrize(model, LowRank(rank=2), ["0", "1"])
    with torch.no_grad():
        model[1].structure.left.fill_(torch.nan)  # type: ignore[union-attr, operator]
    with pytest.raises(ValueError, match="^1 holds NaN or infinite values"):
        spectra(model)
