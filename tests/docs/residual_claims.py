"""What papers claim of residual connections, beside figures of the kept results."""

from .claim import Claim, Spread, ahead
from .kept import rows

__all__ = ["residual_claims"]

SMALL = "bits per byte of a small GPT"


def bits(name: str) -> Spread:
    """Bits per byte of a residual, three seeds at the best rate of a grid."""
    found = {row["residual"]: row for row in rows("residual_bytes_gpt")}
    return Spread.of(found[name], "bits/byte", "standard error")


def step(name: str) -> float:
    """The time of a step over that of `add`."""
    (row,) = rows("residual_bytes_gpt", residual=name)
    return row["step over add"]


def least(kept: str, what: str, name: str) -> float:
    """The least ratio to `add` of any path."""
    return min(row["ratio"] for row in rows(kept, what=what, residual=name))


def beats_add(name: str, told: str, source: str) -> Claim:
    """A claim that a residual has a lower loss than the plain sum."""
    mine, plain = bits(name), bits("add")
    found = f"{SMALL}: {mine}, `add` {plain}; step {step(name):.2f}×"
    return Claim(told, source, found, ahead(plain, mine), "residual_bytes_gpt")


def costs(told: str, source: str, part: str, limit: float) -> Claim:
    """A claim that blocks of AttnRes cost little, on the two machines that measured it."""
    kinds = (f"ViT, {part}", f"GPT, {part}")
    quiet = [least("residual", what, "block_attnres") for what in kinds]
    other = [least("residual_other_machine", what, "block_attnres") for what in kinds]
    found = (
        f"ViT and GPT: {quiet[0]:.2f}× and {quiet[1]:.2f}× on one machine, {other[0]:.2f}× and "
        f"{other[1]:.2f}× on another (CPUs)"
    )
    return Claim(told, source, found, max(*quiet, *other) <= limit, "residual")


def residual_claims() -> list[Claim]:
    """Claims of residuals."""
    delta, compressed = bits("delta"), bits("delta_cc")
    plain, pairs = bits("add"), bits("parallel")
    return [
        beats_add(
            "attnres",
            "Full Attention Residuals have a lower loss than the plain residual at every size "
            "(1.931 to 1.899 at 194 M active parameters)",
            "arXiv:2603.15031, scaling sweep",
        ),
        beats_add(
            "block_attnres",
            "Block Attention Residuals keep most of that gain (1.909)",
            "arXiv:2603.15031, scaling sweep",
        ),
        costs(
            "Block Attention Residuals cost less than 4 % of training time",
            "arXiv:2603.15031, overheads of the authors' stack",
            "training step",
            1.04,
        ),
        costs(
            "Block Attention Residuals cost less than 2 % of inference",
            "arXiv:2603.15031, overheads of the authors' stack",
            "inference",
            1.02,
        ),
        beats_add(
            "delta",
            "Deep Delta Learning has a lower loss than the plain residual (2.8482 against 2.8543 "
            "nats, single runs of 124 M parameters)",
            "arXiv:2601.00417, table of 124 M models",
        ),
        Claim(
            "A compressed state of several columns improves it further (2.8329)",
            "arXiv:2601.00417, table of 124 M models",
            f"{SMALL}: `delta_cc` {compressed}, `delta` {delta}",
            ahead(delta, compressed),
            "residual_bytes_gpt",
        ),
        beats_add(
            "hyper_connections",
            "Hyper-connections have a lower loss than the pre-norm residual (by .028 nats in "
            "OLMoE-1B-7B)",
            "arXiv:2409.19606, language models",
        ),
        beats_add(
            "mhc_lite",
            "Streams mixed by doubly stochastic matrices have a lower loss than the plain residual "
            "(1.906 against 1.931 at 194 M)",
            "arXiv:2603.15031, scaling sweep, of arXiv:2601.05732",
        ),
        beats_add(
            "denseformer",
            "Weighted averages of block states lower the perplexity of a Transformer of the same "
            "depth",
            "arXiv:2402.02622, abstract",
        ),
        Claim(
            "Attention and MLP side by side train faster (by some 15 %), at no loss of quality in "
            "large models",
            "arXiv:2204.02311, §2",
            f"{SMALL}: pairs {pairs}, `add` {plain}; step {step('parallel'):.2f}×",
            step("parallel") < 1 and not ahead(pairs, plain),
            "residual_bytes_gpt",
        ),
        beats_add(
            "scaled",
            "Branches scaled by 1/√L train deep networks better than the plain sum",
            "arXiv:1903.07120, abstract",
        ),
        beats_add(
            "value_residual",
            "Values of the first attention in all later ones reach the same loss with 16 % fewer "
            "parameters or 20 % less data",
            "arXiv:2410.17897, abstract",
        ),
        beats_add(
            "lime",
            "Keys and values of all earlier attentions, mixed for each head, lower the perplexity "
            "at equal compute",
            "arXiv:2502.09245, abstract",
        ),
        beats_add(
            "orthogonal",
            "Updates orthogonal to the stream generalise better (by 3.8 points for a ViT-B on "
            "ImageNet-1k, images alone)",
            "arXiv:2505.11881, abstract",
        ),
        Claim(
            "Dynamic dense connections equal Transformers of 1.8 to 2.4 times the compute",
            "arXiv:2502.12170, abstract",
        ),
        Claim(
            "DeepCrossAttention reaches equal quality up to three times faster",
            "arXiv:2502.06785, abstract",
        ),
    ]
