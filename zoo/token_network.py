"""What transformers of tokens share: an embedding, blocks over any residual, and a head."""

from collections.abc import Callable, Sequence

from torch import nn

from ..layers.residual import Site
from ..layers.sizes import check_sizes
from ..layers.units import Units, UnitTrace
from .axes.geometry import Geometry, GeometryName, HeadName, choose_geometry, give_head
from .axes.residuals import ResidualSpec, make_residual
from .branch import output_weight_of
from .network import Network
from .trunk import Trunk, drop_path_rates

__all__ = ["BlockBuilder", "TokenNetwork"]

BlockBuilder = Callable[[Geometry, int], Sequence[tuple[str, nn.Module]]]
"""Makes the branches of a block, each behind the kind of its site.

It is given the space of the tokens, and the number of branches before the block.
"""


class TokenNetwork(Network):
    """A transformer of tokens, whose head is tied to the embedding or is one of classes.

    RMS norms stand before the branches and before the head. A subclass implements
    `forward_features`.

    Args:
        make_block: Makes the branches of a block.
        vocab_size: Number of token ids.
        context_length: Longest training sequence.
        width: Token width; a multiple of 2 · num_heads.
        depth: Blocks.
        num_heads: Attention heads.
        num_classes: None ties the head to the embedding; a number is a head of that length.
        residual: The residual mechanism.
        geometry: The space of the tokens.
        curvature: Of a curved space.
        learned_curvature: Whether it is learned.
        head: The kind of head.
        drop_path_rate: Stochastic depth of the last branch, in [0, 1).
        norm_eps: Epsilon of the norms, at least 0.

    Raises:
        ValueError: a size below 1, a norm_eps below 0, a width that the heads do not divide into
            even parts, branches that the residual cannot train, a residual or a head of another
            space, or a curvature that nothing has.
    """

    def __init__(
        self,
        make_block: BlockBuilder,
        *,
        vocab_size: int,
        context_length: int,
        width: int,
        depth: int,
        num_heads: int,
        num_classes: int | None,
        residual: ResidualSpec,
        geometry: GeometryName,
        curvature: float | None,
        learned_curvature: bool,
        head: HeadName | None,
        drop_path_rate: float,
        norm_eps: float,
    ) -> None:
        """Build the embedding, the trunk and the head."""
        check_sizes(1, vocab_size=vocab_size, context_length=context_length)
        check_sizes(1, width=width, depth=depth, num_heads=num_heads)
        if not norm_eps >= 0:
            raise ValueError(f"norm_eps must be at least 0, got {norm_eps}")
        if width % (2 * num_heads):
            raise ValueError(f"width={width} must be a multiple of 2 · num_heads={2 * num_heads}")
        space = choose_geometry(
            geometry,
            curvature=curvature,
            learned_curvature=learned_curvature,
            head=head,
            residual=residual,
        )
        super().__init__(vocab_size=vocab_size, input_size=(context_length,))
        self.vocab_size, self.context_length = vocab_size, context_length
        self.num_features, self.head_dim = width, width // num_heads
        self.space = space
        self.embedding = nn.Embedding(vocab_size, width)
        sites: list[Site] = []
        branches: list[nn.Module] = []
        for block in range(depth):
            for kind, branch in make_block(space, len(branches)):
                sites.append(Site(kind, block))
                branches.append(branch)
        self.shared = {**space.shared, "num_heads": num_heads}
        self.trunk = Trunk(
            make_residual(residual, width, sites, shared=self.shared),
            branches,
            [space.rms_norm(width, eps=norm_eps) for _ in branches],
            drop_path_rates(drop_path_rate, len(branches)),
        )
        self.norm = space.rms_norm(width, eps=norm_eps)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.reset_branches()
        self.trunk.apply_branch_gain()
        self.trunk.check_branches()
        self.num_classes = vocab_size if num_classes is None else num_classes
        self.default_cfg["num_classes"] = self.num_classes
        give_head(self, space, head, self.embedding if num_classes is None else None)

    def reset_branches(self) -> None:
        """Normals of std 0.02; a branch's last projection shrinks by 1/√(number of branches)."""
        last = len(self.trunk.branches) ** -0.5
        closing = {id(output_weight_of(branch)) for branch in self.trunk.branches}
        for layer in self.space.linear_layers(self):
            std = 0.02 * (last if id(layer.weight) in closing else 1.0)
            nn.init.normal_(layer.weight, std=self.space.weight_scale * std)

    def follow_units(self, trace: UnitTrace, x: Units) -> Units:
        """One stream from the embedding to the head, whose weight is its table where tied."""
        return trace.chain(x, self.embedding, self.trunk, self.norm, self.head)
