"""What papers claim of smaller models, beside figures of the kept results."""

import math
import re

from .claim import Claim, Spread, ahead
from .kept import dense_accuracy, mean, result, rows

__all__ = ["compression_claims"]


def exported(method: str) -> Spread:
    """Test accuracy of an exported ResNet-20 at 29 % of its convolution parameters, two seeds."""
    found = [row["exported, %"] for row in rows("lowrank_fashion_mnist", method=method)]
    return Spread(mean(found), abs(found[0] - found[1]) / 2, 2)


def cut(case: str, rule: str, share: str = "30%") -> Spread:
    """Test accuracy of a ResNet-20 cut by data, three seeds."""
    found = {row.get("ranks by"): row for row in rows("compress_resnet", case=case)}
    return Spread.of(found[rule], share, f"{share}, standard error", 1)


def eora_points() -> list[float]:
    """Points of accuracy of EoRA's paths over those of the plain SVD."""
    pairs = [
        re.search(r"svd (\d\.\d+) and eora (\d\.\d+)", row["what"]) for row in rows("compress")
    ]
    return [100 * (float(pair[2]) - float(pair[1])) for pair in pairs if pair]


def compression_claims() -> list[Claim]:
    """Claims of compression, by training and after it."""
    (error,) = [
        bar["figure"]
        for bar in result("lowrank")["bars"]
        if bar["what"] == "T5, 8,000 steps: relative error of any prefix"
    ]
    pela = {
        how: Spread.of(row, "30%", "30%, standard error", 2)
        for row in rows("pela_resnet")
        for how in [row["trained"]]
    }
    welore = rows("welore_bytes_gpt", **{"ranks lost": "0.5", "rule": "WeLore"})[0]
    more = Spread.of(welore, "more than uniform", "standard error")
    paths = eora_points()
    maestro, trp = exported("Maestro as published"), exported("TRP")
    nuclear, after = exported("TRP + nuclear norm"), exported("SVD after training")
    rules = ("uniform", "energy", "local", "fisher", "output")
    mimic = [(cut("feature_mimicking", rule), cut("svd", rule)) for rule in rules]
    output, uniform = cut("svd", "output"), cut("svd", "uniform")
    return [
        Claim(
            "Maestro costs no accuracy (VGG-19 on CIFAR-10 at 11 % of its parameters: 93.10 %, "
            "dense 92.94 %)",
            "arXiv:2308.14929, table of CIFAR-10",
            f"ResNet-20 on Fashion-MNIST at 29 %: {maestro} %, dense {dense_accuracy():.2f} %",
            maestro.mean + 2 * maestro.error >= dense_accuracy(),
            "lowrank_fashion_mnist",
        ),
        Claim(
            "Sampled prefixes recover the SVD of a linear map whose inputs are white",
            "arXiv:2308.14929, theory",
            f"a trained map of rank 3: any prefix to {error:.1e} of its size",
            error < 0.01,
            "lowrank",
        ),
        Claim(
            "Trained rank pruning is better than decomposing after training",
            "arXiv:1812.02402, abstract",
            f"ResNet-20 at 29 % of its parameters: {trp} %, SVD after training {after} %",
            ahead(trp, after),
            "lowrank_fashion_mnist",
        ),
        Claim(
            "A nuclear norm improves it further",
            "arXiv:1812.02402, abstract",
            f"{nuclear} %, without {trp} %",
            ahead(nuclear, trp),
            "lowrank_fashion_mnist",
        ),
        Claim(
            "Features of the dense model help to train its compressed copy",
            "arXiv:2310.10700, abstract (PELA)",
            f"ResNet-20 at 30 %, an epoch: {pela['features']} % with features, plainly "
            f"{pela['plain']} %",
            ahead(pela["features"], pela["plain"]),
            "pela_resnet",
        ),
        Claim(
            "One threshold on scaled singular values is better than equal ranks",
            "arXiv:2407.11239, comparison with uniform reduction (WeLore)",
            f"half of the ranks lost: {more.mean:+.3f} ± {more.error:.3f} bits per byte beyond "
            "equal ranks",
            more.mean + 2 * more.error < 0,
            "welore_bytes_gpt",
        ),
        Claim(
            "Paths in the eigenspace of the inputs restore a coarse weight better than a plain SVD",
            "arXiv:2410.21271, comparison with SVD (EoRA)",
            f"pitches within 50 cents: {min(paths):+.1f} to {max(paths):+.1f} points over the SVD "
            f"in {len(paths)} cases, one draw each",
            mean(paths) > 0,
            "compress",
        ),
        Claim(
            "Factors that mimic features keep more than those of the weight's SVD",
            "arXiv:2405.18146, feature mimicking",
            "ResNet-20 at 30 %, ranks by uniform, energy, local, fisher, output: "
            + ", ".join(f"{a.mean:.1f} / {b.mean:.1f}" for a, b in mimic)
            + " %",
            mean([a.mean - b.mean for a, b in mimic])
            > 2 * math.hypot(*(e.error for pair in mimic for e in pair)) / len(mimic),
            "compress_resnet",
        ),
        Claim(
            "Budgets by measured errors of the output are better than uniform ones",
            "arXiv:2308.10438, abstract (of pruning)",
            f"ResNet-20 at 30 %, plain SVD: {output} %, uniform {uniform} %",
            ahead(output, uniform),
            "compress_resnet",
        ),
    ]
