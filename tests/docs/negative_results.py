"""The log of negative results: what did not hold here, with figures read off the kept results."""

from .adapter_figures import adapters_on_novels
from .adapter_image_figures import adapters_on_images
from .carried_figures import carried_adapters
from .connect_claims import residuals_apart
from .encoder_figures import encoder_on_proteins
from .finding import Finding
from .graph_figures import links_in_flat_space, not_in_curved_space
from .kept import only, rounded, rows
from .negative_costs import compression, fewer_numbers, low_rank, missed_bars
from .scaling_claims import gains_with_size

__all__ = ["negative_results"]


def residuals_on_bytes() -> list[Finding]:
    """What a small GPT over bytes showed of residuals."""
    found = {row["residual"]: row for row in rows("residual_bytes_gpt")}

    def bits(name: str) -> str:
        return f"{found[name]['bits/byte']:.3f} ± {found[name]['standard error']:.3f}"

    alike = [
        f"`{name}`"
        for name, row in found.items()
        if name != "add" and row["against add"] == "no difference shown"
    ]
    first, second = sorted(found, key=lambda name: found[name]["bits/byte"])[:2]
    return [
        Finding(
            "2026-11-30",
            "Deep Delta Learning does not beat plain addition in a small GPT",
            f"`delta` {bits('delta')} and `delta_cc` {bits('delta_cc')} bits per byte, `add` "
            f"{bits('add')}: {rounded(found['delta']['against add'])} and "
            f"{rounded(found['delta_cc']['against add'])} (0.69 M parameters, three "
            "seeds). The gains that the paper reports are not reproduced at this size.",
            "residual_bytes_gpt",
        ),
        Finding(
            "2026-11-30",
            f"No gain is shown there: {', '.join(alike)}",
            "; ".join(f"{name} {bits(name.strip('`'))}" for name in alike)
            + f" bits per byte beside `add` {bits('add')}: no difference beyond two standard "
            "errors, in either direction, after minutes of training.",
            "residual_bytes_gpt",
        ),
        Finding(
            "2026-11-30",
            "What the lowest losses there cost in time",
            f"`{first}` has the lowest loss, {bits(first)}, at "
            f"{found[first]['step over add']:.2f} times the step of `add`, and `{second}` "
            f"{bits(second)} at {found[second]['step over add']:.2f} times. Runs were compared at "
            "equal tokens and not at equal time.",
            "residual_bytes_gpt",
        ),
    ]


def geometry() -> list[Finding]:
    """What the ball did not give."""
    ball = only("poincare_fashion_mnist", model="poincare_resnet_tiny")
    flat = only("poincare_fashion_mnist", model="euclidean_resnet_tiny")
    ours = only("wordnet_mammals", method="ours, float32", dim=10)
    gensim = only("wordnet_mammals", method="gensim", dim=10)
    step = only("hyperbolic", what="ResNet-20 step", who="ours, kernels")
    return [
        Finding(
            "2026-11-25",
            "A Poincaré ResNet is less accurate than its flat twin",
            f"{ball['clean']} % of Fashion-MNIST's test fold and {flat['clean']} % for the twin, "
            f"{rounded(ball['against the twin'])} points (20 k parameters, four epochs, two "
            "seeds, each at the better of two learning rates). It is harder to attack, at "
            "another learning rate than the twin's, which may be the reason.",
            "poincare_fashion_mnist",
        ),
        Finding(
            "2026-11-25",
            "The norm of a hyperbolic embedding does not tell foreign images",
            f"AUROC by the norm, noise {ball['AUROC noise, norm']} and digits "
            f"{ball['AUROC digits, norm']}; for the flat twin {flat['AUROC noise, norm']} and "
            f"{flat['AUROC digits, norm']}. By the energy of the logits the ball is ahead on "
            "digits, and no difference is shown on noise.",
            "poincare_fashion_mnist",
        ),
        Finding(
            "2026-11-25",
            "gensim embeds WordNet's mammals better in ten dimensions",
            f"Mean rank {gensim['mean rank']:.2f} and MAP {gensim['MAP']:.3f}, ours "
            f"{ours['mean rank']:.2f} and {ours['MAP']:.3f} (two seeds); in five dimensions ours "
            "is ahead. Why is not known.",
            "wordnet_mammals",
        ),
        Finding(
            "2026-11-25",
            "A network in the ball costs twice its flat twin even with compiled kernels",
            f"A training step of the Poincaré ResNet-20 takes {step['time ratio']:.1f} times that "
            f"of the twin and keeps {step['MiB ratio']:.1f} times the bytes (one thread).",
            "hyperbolic",
        ),
    ]


def certificates() -> list[Finding]:
    """What Lipschitz networks and certificates did not give."""

    def at(accuracy: str, method: str) -> dict[str, float]:
        return only("ldlt_tabular", accuracy=accuracy, method=method)

    gains = [
        at(eps, method)["mean, %"] - at(eps, "SLL")["mean, %"]
        for eps in ("36/255", "72/255", "108/255")
        for method in ("LDLT dense", "LDLT n=2")
    ]
    local = only("certify_local", data="digits", network="mlp_small")
    exact = rows("certify_exact")[0]
    return [
        Finding(
            "2026-11-29",
            "LDLT networks gain less over SLL on tables than their authors report",
            f"{min(gains):.2f} to {max(gains):.2f} points of certified accuracy for the dense "
            "network and n = 2, over 27 tables and three seeds; the authors' 3 to 13 points are "
            "over 121 sets. On clean accuracy Friedman's test among the six Lipschitz networks "
            f"does not tell them apart (p = {at('clean', 'SLL')['p, Lipschitz']:.2f}).",
            "ldlt_tabular",
        ),
        Finding(
            "2026-11-29",
            "Certificates of an ordinary network with layer norms reach little",
            f"`mlp_small` on 100 digits at 36/255: {local['36: local']:.0f} % certified around "
            f"the sample, {local['36: global']:.0f} % by the Lipschitz constant, "
            f"{local['36: attacked']:.0f} % stand an attack.",
            "certify_local",
        ),
        Finding(
            "2026-11-29",
            "A proved bound can be twenty times the constant of a small ReLU network",
            f"In the median the bound is {exact['figure']:.4f} of the constant counted piece by "
            f"piece, over {rounded(exact['notes'].partition(', seconds')[0])}: diagonal "
            "multipliers prove no less there.",
            "certify_exact",
        ),
    ]


def negative_results() -> str:
    """All findings, the newest first."""
    found = [
        *residuals_on_bytes(),
        *missed_bars(),
        *geometry(),
        *links_in_flat_space(),
        *not_in_curved_space(),
        *low_rank(),
        *compression(),
        *fewer_numbers(),
        *certificates(),
        *adapters_on_novels(),
        *carried_adapters(),
        *adapters_on_images(),
        *encoder_on_proteins(),
        *gains_with_size(),
        *residuals_apart(),
    ]
    return "\n\n".join(map(str, sorted(found, key=lambda one: one.date, reverse=True)))
