"""What an image model answers beyond a network: features at every depth, pools, timm's facts."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from ..layers.sizes import check_sizes
from .network import ImageSize, Network, image_cfg
from .recipe import forget, record

__all__ = ["ImageNetwork", "taken_depths"]

Indices = int | Sequence[int] | None


class ImageNetwork(Network):
    """A network of images whose features can be taken at every depth, under timm's names.

    A subclass implements `feature_info` and `depths`, and sets `norm`, what stands between the last
    depth and the pool.

    Args:
        in_chans: Image channels.
        img_size: Side of the images in pixels, or height and width.
        first_conv: Name of the first convolution.
        num_classes: Length of the logits, which an unpooled network does not have.
        global_pool: One of `pools`; `""` hands on features as they are and needs num_classes = 0.
        default_cfg: Further facts for timm's tools.

    Attributes:
        num_prefix_tokens: Tokens before the patches; 0 where features are maps of pixels.

    Raises:
        ValueError: a size below 1, an unknown pool, or `""` with classes.
    """

    pools: tuple[str, ...] = ("avg", "")
    num_prefix_tokens: int = 0
    norm: nn.Module

    def __init__(
        self,
        in_chans: int,
        img_size: ImageSize,
        first_conv: str,
        *,
        num_classes: int,
        global_pool: str,
        **default_cfg: Any,
    ) -> None:
        """Keep the facts and choose the pool."""
        check_sizes(1, in_chans=in_chans)
        super().__init__(**image_cfg(in_chans, img_size, first_conv), **default_cfg)
        self._check_pool(global_pool, num_classes)
        self.pool_type = global_pool

    # Features at every depth.

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """A mapping for each depth: `num_chs` channels at 1/`reduction` of the resolution.

        `module` names where a hook sees them, `hook_type` how where it is not by its output.
        """
        raise NotImplementedError

    def depths(self, x: Tensor, taken: set[int]) -> Iterator[tuple[int, Tensor]]:
        """Run the network, and yield what has the depths asked for, each with its number.

        The last depth is what enters the final norm.
        """
        raise NotImplementedError

    def normed(self, h: Tensor, depth: int) -> Tensor:
        """Apply the final norm to features of a depth."""
        return self.norm(h)

    def as_map(self, h: Tensor) -> Tensor:
        """Arrange features as (B, D, H, W), without prefix tokens."""
        return h

    def forward_intermediates(
        self,
        x: Tensor,
        indices: Indices = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: Literal["NCHW", "NLC"] = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
    ) -> Any:
        """Return features of several depths, in order of depth.

        Those of a transformer's block are what the next block's first branch reads, before its norm
        (`handed_on`); those of a stage are what closes it. In both the final norm of the last ones
        gives `forward_features`.

        Args:
            x: Images (B, C, H, W).
            indices: The last n depths for a number, all for None, or the depths themselves; of
                stages, 0 is the stem.
            return_prefix_tokens: Whether each comes as a pair with its prefix tokens (B, P, D),
                where the model has some.
            norm: Whether to apply the final norm: to every block, and to the last stage only.
            stop_early: Stop at the last depth asked for, whose features count as the final ones.
            output_fmt: `NCHW` for (B, D, H, W), `NLC` for (B, H·W, D).
            intermediates_only: Return the intermediates alone; nothing behind the last runs.
            output_dict: Return a mapping with `image_intermediates`, `image_features` and, where
                asked for, `image_intermediates_prefix`.

        Returns:
            (features, intermediates), unless one of the last two arguments says otherwise.

        Raises:
            ValueError: a depth that the model does not have, or an unknown format.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt must be 'NCHW' or 'NLC', got {output_fmt!r}")
        depths = len(self.feature_info)
        taken = taken_depths(depths, indices)
        end = max(taken) if stop_early or intermediates_only else depths - 1
        seen, last = [], x
        for depth, last in self.depths(x, {*taken, end}):  # noqa: B007
            if depth in taken:
                seen.append(self.normed(last, depth) if norm else last)
            if depth == end:
                break
        maps = [self.as_map(h) for h in seen]
        maps = maps if output_fmt == "NCHW" else [h.flatten(2).mT for h in maps]
        count = self.num_prefix_tokens if return_prefix_tokens else 0
        prefixes = [h[:, :count] for h in seen if count]
        if output_dict:
            found: dict[str, Any] = {"image_intermediates": maps}
            found |= {"image_intermediates_prefix": prefixes} if count else {}
            found |= {} if intermediates_only else {"image_features": self.normed(last, end)}
            return found
        pairs = list(zip(maps, prefixes, strict=True)) if count else maps
        return pairs if intermediates_only else (self.normed(last, end), pairs)

    def get_intermediate_layers(
        self,
        x: Tensor,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_prefix_tokens: bool = False,
        norm: bool = False,
    ) -> Any:
        """Return features of the last n depths, or of those named, as DINO's models do.

        Args:
            x: Images (B, C, H, W).
            n: How many, or which.
            reshape: Whether as (B, D, H, W) instead of (B, H·W, D).
            return_prefix_tokens: Whether as pairs with the prefix tokens.
            norm: Whether to apply the final norm.
        """
        return self.forward_intermediates(
            x,
            n,
            return_prefix_tokens,
            norm,
            output_fmt="NCHW" if reshape else "NLC",
            intermediates_only=True,
        )

    def prune_intermediate_layers(
        self, indices: Indices = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what `forward_intermediates` of some depths does not need; no recipe leads back.

        Args:
            indices: As there.
            prune_norm: Whether the final norm goes.
            prune_head: Whether pool and classifier go.

        Returns:
            The depths, counted from the start.
        """
        taken = taken_depths(len(self.feature_info), indices)
        if self.drop_behind(max(taken)) or prune_norm:
            self.norm = nn.Identity()
            forget(self, f"prune_intermediate_layers({indices}) dropped what is behind a depth")
        if prune_head:
            self.reset_classifier(0, "")
        return taken

    def drop_behind(self, depth: int) -> bool:
        """Drop the modules behind a depth, and tell whether there were some that can go.

        No block of a trunk can: a residual is made for all of its sites.
        """
        return False

    # Pools and heads.

    def _check_pool(self, global_pool: str, num_classes: int) -> None:
        if global_pool not in self.pools:
            known = ", ".join(map(repr, self.pools))
            raise ValueError(f"global_pool must be one of {known}, got {global_pool!r}")
        if global_pool == "" and num_classes > 0:
            raise ValueError(
                f"global_pool='' hands on features that no head reads; set num_classes=0, "
                f"got {num_classes}"
            )

    def set_global_pool(self, global_pool: str) -> None:
        """Choose one of `pools`; `""`, no pooling, only where there is no classifier."""
        self._check_pool(global_pool, self.num_classes)
        self.pool_type = global_pool
        record(self, global_pool=global_pool)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a fresh one, and the pool by another; 0 classes removes the head.

        Raises:
            ValueError: num_classes < 0, an unknown pool, or no pool for a head.
        """
        pool = self.pool_type if global_pool is None else global_pool
        self._check_pool(pool, num_classes)
        super().reset_classifier(num_classes)
        if global_pool is not None:
            self.set_global_pool(pool)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool the features, where there is a pool, and classify them unless `pre_logits`."""
        return x if self.pool_type == "" else super().forward_head(x, pre_logits)


def taken_depths(count: int, indices: Indices) -> list[int]:
    """Depths that timm's `indices` means: the last n for a number, all for None, or those named.

    Raises:
        ValueError: a depth that is not there, negative ones counting from the end.
    """
    if indices is None:
        return list(range(count))
    if isinstance(indices, int):
        if not 0 < indices <= count:
            raise ValueError(
                f"the last n of {count} depths: n must lie in [1, {count}], got {indices}"
            )
        return list(range(count - indices, count))
    taken = [count + i if i < 0 else i for i in indices]
    wrong = [given for given, i in zip(indices, taken, strict=True) if not 0 <= i < count]
    if wrong or not taken:
        raise ValueError(f"there are {count} depths, 0 to {count - 1}, got {list(indices)}")
    return taken
