"""Negative results of low rank and of projections, and bars of time and memory that were missed."""

from .finding import Finding
from .kept import dense_accuracy, mean, result, rows

__all__ = ["compression", "fewer_numbers", "low_rank", "missed_bars"]


def missed_bars() -> list[Finding]:
    """What was to be met and was not."""

    def missed(name: str, about: str = "") -> str:
        bars = [bar for bar in result(name)["bars"] if not bar["met"] and about in bar["what"]]
        told = [f"{bar['what']} {bar['figure']:.4g} (bar {bar['limit']:g})" for bar in bars]
        return f"{len(bars)} of {len(result(name)['bars'])}: " + "; ".join(told) + "."

    return [
        Finding(
            "2026-11-25",
            "Three speed bars of the residuals are missed on a second machine",
            "Of the bars that one quiet machine met, another missed "
            f"{missed('residual_other_machine')} How much of it is the machine and how much the "
            "code between was not separated.",
            "residual_other_machine",
            "residual",
        ),
        Finding(
            "2026-11-25",
            "LDLT blocks of two inner layers cost two and a half Sandwich layers",
            f"Missed bars {missed('lipschitz')} The map from parameters to weights runs in "
            "float64, and at batch 256 a step is mostly that.",
            "lipschitz",
        ),
        Finding(
            "2026-11-25",
            "SLTrain saves memory and no time",
            f"Missed bars {missed('lowrank_speed')} W was formed twice then; what it costs "
            "since few rows are multiplied without W is on the page of low rank, and still more "
            "than a dense step.",
            "lowrank_speed",
        ),
        Finding(
            "2026-11-25",
            "Maestro recovers a matrix of rank 3 less exactly than asked in 6,000 steps",
            f"Missed bars {missed('lowrank', 'T5')} 8,000 steps leave 2.1e-3.",
            "lowrank",
        ),
        Finding(
            "2026-11-29",
            "Curved models cost more than asked at small sizes",
            f"Missed bars of whole models {missed('geometry_models')} Of parts "
            f"{missed('geometry')} Of graph networks {missed('geometry_graphs')} Small tensors "
            "pay for every further operation.",
            "geometry_models",
        ),
        Finding(
            "2026-11-29",
            "A root by the small side is not a hundred times faster",
            f"Missed bars {missed('compress')} Nothing depends on it: the root takes a moment.",
            "compress",
        ),
    ]


def compression() -> list[Finding]:
    """What compression by data did not give."""

    def at(case: str, rule: str) -> str:
        row = next(r for r in rows("compress_resnet", case=case) if r["ranks by"] == rule)
        shares = [f"{row[s]:.1f} ± {row[f'{s}, standard error']:.1f}" for s in ("40%", "30%")]
        return " and ".join(shares)

    def exported(method: str) -> str:
        found = rows("lowrank_fashion_mnist", method=method)
        return " and ".join(f"{row['exported, %']:.1f}" for row in found)

    paths = [row["what"] for row in rows("compress") if " and eora " in row["what"]]
    told = [
        f"`{case}` {at(case, 'fisher')} by `fisher`, {at(case, 'local')} by `local`"
        for case in ("svd", "feature_mimicking")
    ]
    return [
        Finding(
            "2026-11-29",
            "First-order budgets lose to local errors in a ResNet",
            "Test accuracy of ResNet-20 at 40 and 30 % of its convolution parameters, in per cent: "
            + "; ".join(told)
            + ". On a pretrained pitch network it is the other way round. Errors of outputs that "
            "are measured are nowhere behind.",
            "compress_resnet",
        ),
        Finding(
            "2026-11-29",
            "A teacher's features and logits add nothing to training a compressed ResNet",
            "Test accuracy of ResNet-20 cut to 40 and 30 % of its convolution parameters and "
            f"trained for one epoch: {_trained('plain')} per cent plainly, "
            f"{_trained('features and logits')} beside the dense network (PELA, three seeds). A "
            "gain of .3 points was looked for. Plain training is within .6 points of the dense "
            f"network's {dense_accuracy():.1f}, so there was little to gain.",
            "pela_resnet",
        ),
        Finding(
            "2026-11-29",
            "EoRA restores coarse weights no better than a plain SVD",
            "Share of pitches of a pretrained network within 50 cents, behind coarse weights with "
            f"paths beside them: {'; '.join(paths)}. Outputs of every layer come nearer, the pitch "
            "does not (one draw of tones; a gain of ten points was looked for).",
            "compress",
        ),
        Finding(
            "2026-11-25",
            "A nuclear norm adds nothing to trained rank pruning",
            f"TRP {exported('TRP')} %, with the norm {exported('TRP + nuclear norm')} % at 29 % of "
            "the convolution parameters (two seeds).",
            "lowrank_fashion_mnist",
        ),
    ]


def _trained(how: str) -> str:
    """What a compressed ResNet-20 comes to, at both sizes."""
    (row,) = rows("pela_resnet", trained=how)
    return " and ".join(
        f"{row[share]:.1f} ± {row[f'{share}, standard error']:.1f}" for share in ("40%", "30%")
    )


def low_rank() -> list[Finding]:
    """What low rank did not give."""
    found = {row["method"]: row for row in rows("lowrank_bytes_gpt")}
    dense = dense_accuracy()

    def bits(name: str) -> str:
        return f"{found[name]['bits/byte']:.3f} ± {found[name]['standard error']:.3f}"

    def below(method: str) -> str:
        exported = [row["exported, %"] for row in rows("lowrank_fashion_mnist", method=method)]
        return f"{dense - mean(exported):.2f}"

    def times(method: str, key: str) -> str:
        return f"{mean([row[key] for row in rows('lowrank_fashion_mnist', method=method)]):.2f}"

    old = rows("lowrank_fashion_mnist", method="Maestro as published")
    return [
        Finding(
            "2026-11-25",
            "No low-rank training reaches full rank",
            f"Full rank {bits('full rank')} bits per byte; SLTrain {bits('SLTrain')}, SwitchLoRA "
            f"{bits('SwitchLoRA')}, SST {bits('SST')}, ReLoRA {bits('ReLoRA')} (GPT of two "
            "blocks, rank 12 of 96, three seeds, a grid of learning rates each).",
            "lowrank_bytes_gpt",
        ),
        Finding(
            "2026-11-25",
            "LOST and CoLA do not beat plain low rank there",
            f"LOST {bits('LOST, linear')} without activation and {bits('LOST, SiLU')} with SiLU, "
            f"CoLA {bits('CoLA')}, low rank with a spectral start "
            f"{bits('low rank, spectral init')}, refactorised {bits('low rank, refactorised')}. "
            "Their papers place both beside full rank; the run here is a thousand times shorter.",
            "lowrank_bytes_gpt",
        ),
        Finding(
            "2026-11-25",
            "Low rank that starts at zero trains nothing",
            f"{bits('low rank, zero init')} bits per byte at every rate of the grid: in branches "
            "without biases every gradient is exactly zero.",
            "lowrank_bytes_gpt",
        ),
        Finding(
            "2026-11-25",
            "Maestro compresses a ResNet-20 less well than TRP",
            "At 29 % of the convolution parameters Maestro as published loses "
            f"{below('Maestro as published')} points, with warm-up and budget "
            f"{below('Maestro with a budget')}, without sampled prefixes "
            f"{below('Maestro with a budget, without sampling')}, TRP {below('TRP')} "
            "(Fashion-MNIST, four epochs, two seeds). Sampling is what costs most.",
            "lowrank_fashion_mnist",
        ),
        Finding(
            "2026-11-25",
            "Batch norms of sampled prefixes are of no use to the exported model",
            "Without statistics estimated anew Maestro's exports have "
            f"{old[0]['old statistics, %']:.0f} and {old[1]['old statistics, %']:.0f} % in place "
            f"of {old[0]['exported, %']:.1f} and {old[1]['exported, %']:.1f} %.",
            "lowrank_fashion_mnist",
        ),
        Finding(
            "2026-11-25",
            "Fewer multiply-accumulates are not less time",
            f"TRP's spatial factors leave {times('TRP', 'MACs')} of the MACs and "
            f"{times('TRP', 'latency at 64')} of the time at batch 64, "
            f"{times('TRP', 'latency at 1')} at batch 1 (one thread).",
            "lowrank_fashion_mnist",
        ),
    ]


def fewer_numbers() -> list[Finding]:
    """What projections of gradients and uneven ranks did not give."""
    found = {row["optimiser"]: row for row in rows("projected_optimizers")}

    def bits(name: str) -> str:
        return f"{found[name]['bits/byte']:.3f} ± {found[name]['standard error']:.3f}"

    def more(lost: str, rule: str) -> str:
        (row,) = rows("welore_bytes_gpt", **{"ranks lost": lost, "rule": rule})
        return f"{row['more than uniform']:+.3f} ± {row['standard error']:.3f}"

    return [
        Finding(
            "2026-11-29",
            "Without error feedback the strongest cosines are no better than random vectors",
            f"Cosines chosen every step {bits('DCT')} bits per byte, every 20 steps "
            f"{bits('DCT, every 20 steps')}, random vectors drawn every 20 steps {bits('random')}, "
            f"AdamW {bits('AdamW')} (GPT of two blocks, a quarter of the width 96, three seeds, a "
            "grid of learning rates each). The strongest quarter of the cosines holds less than "
            "half of a gradient here. With error feedback, at an eighth of AdamW's bytes more, "
            f"they have {bits('DCT, error feedback')}; random vectors were not tried with it.",
            "projected_optimizers",
        ),
        Finding(
            "2026-11-29",
            "WeLore's uneven ranks cost more than equal ones in a small GPT",
            f"With half of the ranks gone {more('0.5', 'WeLore')} bits per byte more than one "
            f"share for all layers, with three quarters {more('0.75', 'WeLore')}. So do those of "
            f"the least squared error, {more('0.5', 'least error')} and "
            f"{more('0.75', 'least error')} (600 steps of AdamW before, nothing trained after). "
            "Errors of weights say little of errors of the output, as elsewhere here.",
            "welore_bytes_gpt",
        ),
    ]
