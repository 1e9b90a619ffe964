"""Multilayer perceptrons that are L-Lipschitz by construction, whatever their weights.

A stem, `depth` blocks of one width and a head, each with a bound of its own; the product of the
bounds is the network's. `block` chooses what a block is made of:

* ldlt: LDLᵀ residual blocks of any inner depth and wiring, arXiv:2512.05915;
* sll: residual blocks with a diagonal bound, arXiv:2303.03169;
* sandwich: feed-forward layers through a Cayley transform, arXiv:2301.11526;
* aol: rescaled linear layers with MaxMin between them, arXiv:2208.03160.

The skip belongs to the block here: the inequality that bounds it covers skip and branch together,
and the stream of another residual mechanism would not be covered. So there is no `residual=`, no
normalisation, no dropout and no stochastic depth, none of which keeps a bound in training.

Sources: the papers above; the heads are those of `layers.lipschitz.heads`.
Differs from them: one backbone for all, L anywhere.
"""

import math
from typing import Any, Literal

from torch import Tensor, nn

from ....layers.lipschitz import (
    AOLLinear,
    ContractionLinear,
    LDLTBlock,
    MaxMin,
    NormalizedLinear,
    SandwichLayer,
    SLLBlock,
)
from ....layers.sizes import check_sizes
from ...models import register_model
from ...network import HeadBuilder, Network
from ...recomputation import RecomputedSequential

__all__ = [
    "WEIGHTS",
    "BlockName",
    "LipschitzHead",
    "LipschitzMLP",
    "Split",
    "lipschitz_head",
    "product",
    "shares",
]

BlockName = Literal["ldlt", "sll", "sandwich", "aol"]
LipschitzHead = Literal["bounded", "lln"]
Split = Literal["first", "even"]
WiringName = Literal["joint", "skip_first", "chain_first", "feed_forward", "taps", "dense"]


class LipschitzMLP(Network):
    """A stem, blocks and a head with a known Lipschitz constant.

    Args:
        num_classes: Length of the logits; 0 for features.
        in_features: Number of inputs; an image counts all its values and is flattened.
        width: Width of the stream; even for `aol`.
        depth: Blocks.
        block: What a block is made of, see above.
        lipschitz: L of stem and blocks together; the head is beyond it.
        split: Where L goes: all into the stem (`first`), or the same share into each layer.
        hidden_depth: Inner layers n of an `ldlt` block; the others have one.
        expansion: Inner width over `width`, for `ldlt` and `sll`.
        wiring: Of an `ldlt` block; None is the identity skip for n = 1, `joint` for n = 2 and
            `skip_first` above.
        activation: Inside the blocks: slopes in [0, 1]. An `aol` network has MaxMin.
        head: `bounded`, a linear layer of norm below 1, or `lln`, rows of norm 1.

    Shape:
        (B, in_features) or (B, C, H, W) with C·H·W = in_features -> (B, num_classes).

    Raises:
        ValueError: a size below 1, L ≤ 0, an unknown choice, an option that the block does not
            have, an activation that no bound allows, or an input of another size.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        in_features: int = 64,
        width: int = 128,
        depth: int = 6,
        block: BlockName = "ldlt",
        lipschitz: float = 1.0,
        split: Split = "first",
        hidden_depth: int = 1,
        expansion: float = 1.0,
        wiring: WiringName | None = None,
        activation: str = "relu",
        head: LipschitzHead = "bounded",
    ) -> None:
        """Build the stem, the blocks and the head."""
        hidden = int(width * expansion)
        check_sizes(1, in_features=in_features, width=width, depth=depth, hidden_depth=hidden_depth)
        check_sizes(1, **{"expansion · width": hidden})
        if block not in BLOCKS:
            raise ValueError(f"block must be one of {', '.join(BLOCKS)}, got {block!r}")
        if block != "ldlt" and (hidden_depth != 1 or wiring is not None):
            raise ValueError(
                f"hidden_depth={hidden_depth} and wiring={wiring!r} belong to block='ldlt', "
                f"got block={block!r}; leave them out"
            )
        if block in ("sandwich", "aol") and expansion != 1.0:
            raise ValueError(f"block={block!r} has no inner width: expansion must be 1")
        if block == "aol" and activation != "relu":
            raise ValueError(f"block='aol' has MaxMin between its layers, got {activation!r}")
        super().__init__(input_size=(in_features,))
        self.in_features = in_features
        self.num_features = width
        stem, make = BLOCKS[block]
        first, *others = shares(lipschitz, split, depth + 1)
        self.stem = stem(in_features, width, lipschitz=first)
        settings = {"ldlt": {"hidden": (hidden,) * hidden_depth, "wiring": wiring, "depth": depth}}
        settings["sll"] = {"hidden": hidden}
        if block != "aol":
            settings.setdefault(block, {})["activation"] = activation
        self.blocks = RecomputedSequential(
            *(make(width, lipschitz=share, **settings.get(block, {})) for share in others)
        )
        self.num_classes = num_classes
        self.use_head(lipschitz_head(head))

    @property
    def body_lipschitz(self) -> float:
        """The constant of the features, in real arithmetic."""
        return product(self.stem) * product(self.blocks)

    @property
    def lipschitz(self) -> float:
        """The constant of the logit vector (with head `lln`, √K times that of one logit)."""
        return self.body_lipschitz * product(self.head)

    def stages_of_blocks(self) -> list[list[list[nn.Module]]]:
        """The blocks, one stage."""
        return [[[block] for block in self.blocks]]

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the features (B, width)."""
        if math.prod(x.shape[1:]) != self.in_features:
            raise ValueError(
                f"the model reads in_features={self.in_features} values a sample, "
                f"got shape {tuple(x.shape[1:])}"
            )
        return self.blocks(self.stem(x.flatten(1)))


def product(module: nn.Module) -> float:
    """Return the product of the constants of a chain of layers with such constants.

    Raises:
        ValueError: a layer that has none.
    """
    if isinstance(module, nn.Sequential):
        return math.prod(product(child) for child in module)
    if isinstance(module, nn.Identity):
        return 1.0
    value = getattr(module, "lipschitz", None)
    if value is None:
        raise ValueError(
            f"{type(module).__name__} has no Lipschitz constant by construction; certify the model"
        )
    return float(value)


def shares(lipschitz: float, split: Split, count: int) -> list[float]:
    """Split a bound into factors, one for each layer.

    Raises:
        ValueError: an unknown split, or L ≤ 0.
    """
    if not 0 < lipschitz < math.inf:
        raise ValueError(f"lipschitz must be a positive number, got {lipschitz}")
    if split == "first":
        return [lipschitz] + [1.0] * (count - 1)
    if split == "even":
        return [lipschitz ** (1 / count)] * count
    raise ValueError(f"split must be 'first' or 'even', got {split!r}")


def lipschitz_head(name: LipschitzHead) -> HeadBuilder:
    """Return what makes heads of a name.

    Raises:
        ValueError: an unknown name.
    """
    heads: dict[str, HeadBuilder] = {"bounded": ContractionLinear, "lln": NormalizedLinear}
    if name not in heads:
        raise ValueError(f"head must be one of {', '.join(heads)}, got {name!r}")
    return heads[name]


def ldlt(
    width: int,
    *,
    lipschitz: float,
    hidden: tuple[int, ...],
    wiring: WiringName | None,
    depth: int,
    activation: str,
) -> LDLTBlock:
    """Make one of `depth` LDLᵀ blocks, with the start that suits a stack of them."""
    n = len(hidden)
    skip = (
        "none" if wiring == "feed_forward" else "identity" if n == 1 and not wiring else "learned"
    )
    gain = 0.3 / math.sqrt(depth) if n == 1 and skip != "none" else None
    return LDLTBlock(
        width,
        hidden,
        lipschitz=lipschitz,
        skip=skip,
        wiring=wiring,
        activation=activation,
        gain=gain,
    )


def sandwich(width: int, **options: Any) -> SandwichLayer:
    """Make a square Sandwich layer."""
    return SandwichLayer(width, width, **options)


def aol(width: int, *, lipschitz: float) -> nn.Sequential:
    """Make MaxMin and an AOL layer."""
    if width % 2:
        raise ValueError(
            f"width must be even for block='aol', whose MaxMin takes pairs, got {width}"
        )
    return nn.Sequential(MaxMin(dim=-1), AOLLinear(width, width, lipschitz=lipschitz))


BLOCKS: dict[str, tuple[Any, Any]] = {
    "ldlt": (ContractionLinear, ldlt),
    "sll": (ContractionLinear, SLLBlock),
    "sandwich": (SandwichLayer, sandwich),
    "aol": (AOLLinear, aol),
}
"""Stem and block of every weight structure."""


WEIGHTS = "Lipschitz by construction"


@register_model(source="arXiv:2512.05915", kind="features", weights=WEIGHTS, extends=LipschitzMLP)
def ldlt_mlp_nano(width: int = 32, depth: int = 2, **options: Any) -> LipschitzMLP:
    """An MLP of LDLᵀ residual blocks, for tests."""
    return LipschitzMLP(width=width, depth=depth, **options)


@register_model(source="arXiv:2512.05915", kind="features", weights=WEIGHTS, extends=LipschitzMLP)
def ldlt_mlp_tiny(width: int = 64, depth: int = 4, **options: Any) -> LipschitzMLP:
    """An MLP of LDLᵀ residual blocks, 4 of them, 64 wide."""
    return LipschitzMLP(width=width, depth=depth, **options)


@register_model(source="arXiv:2512.05915", kind="features", weights=WEIGHTS, extends=LipschitzMLP)
def ldlt_mlp_small(width: int = 128, depth: int = 6, **options: Any) -> LipschitzMLP:
    """An MLP of LDLᵀ residual blocks, 6 of them, 128 wide."""
    return LipschitzMLP(width=width, depth=depth, **options)


@register_model(source="arXiv:2303.03169", kind="features", weights=WEIGHTS, extends=ldlt_mlp_nano)
def sll_mlp_nano(block: BlockName = "sll", **options: Any) -> LipschitzMLP:
    """An MLP of SLL residual blocks, for tests."""
    return ldlt_mlp_nano(block=block, **options)


@register_model(source="arXiv:2303.03169", kind="features", weights=WEIGHTS, extends=ldlt_mlp_tiny)
def sll_mlp_tiny(block: BlockName = "sll", **options: Any) -> LipschitzMLP:
    """An MLP of SLL residual blocks, 4 of them, 64 wide."""
    return ldlt_mlp_tiny(block=block, **options)


@register_model(source="arXiv:2303.03169", kind="features", weights=WEIGHTS, extends=ldlt_mlp_small)
def sll_mlp_small(block: BlockName = "sll", **options: Any) -> LipschitzMLP:
    """An MLP of SLL residual blocks, 6 of them, 128 wide."""
    return ldlt_mlp_small(block=block, **options)


@register_model(source="arXiv:2301.11526", kind="features", weights=WEIGHTS, extends=ldlt_mlp_nano)
def sandwich_mlp_nano(block: BlockName = "sandwich", **options: Any) -> LipschitzMLP:
    """An MLP of Sandwich layers, for tests."""
    return ldlt_mlp_nano(block=block, **options)


@register_model(source="arXiv:2301.11526", kind="features", weights=WEIGHTS, extends=ldlt_mlp_tiny)
def sandwich_mlp_tiny(block: BlockName = "sandwich", **options: Any) -> LipschitzMLP:
    """An MLP of Sandwich layers, 4 of them, 64 wide."""
    return ldlt_mlp_tiny(block=block, **options)


@register_model(source="arXiv:2301.11526", kind="features", weights=WEIGHTS, extends=ldlt_mlp_small)
def sandwich_mlp_small(block: BlockName = "sandwich", **options: Any) -> LipschitzMLP:
    """An MLP of Sandwich layers, 6 of them, 128 wide."""
    return ldlt_mlp_small(block=block, **options)


@register_model(source="arXiv:2208.03160", kind="features", weights=WEIGHTS, extends=ldlt_mlp_nano)
def aol_mlp_nano(block: BlockName = "aol", **options: Any) -> LipschitzMLP:
    """An MLP of AOL layers with MaxMin, for tests."""
    return ldlt_mlp_nano(block=block, **options)


@register_model(source="arXiv:2208.03160", kind="features", weights=WEIGHTS, extends=ldlt_mlp_tiny)
def aol_mlp_tiny(block: BlockName = "aol", **options: Any) -> LipschitzMLP:
    """An MLP of AOL layers with MaxMin, 4 of them, 64 wide."""
    return ldlt_mlp_tiny(block=block, **options)


@register_model(source="arXiv:2208.03160", kind="features", weights=WEIGHTS, extends=ldlt_mlp_small)
def aol_mlp_small(block: BlockName = "aol", **options: Any) -> LipschitzMLP:
    """An MLP of AOL layers with MaxMin, 6 of them, 128 wide."""
    return ldlt_mlp_small(block=block, **options)
