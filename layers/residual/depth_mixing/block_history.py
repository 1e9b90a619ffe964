"""What mechanisms share that mix the history once for each backbone block.

The first site of a block reads mixtures of what earlier blocks left; the sites after it read the
stream that grows inside the block. An attention that opens a block takes its query, key and value
from different mixtures.
"""

from collections.abc import Sequence

from ..stream import Residual, Site

__all__ = ["VIEWS", "BlockHistory"]

VIEWS = ("query", "key", "value")


class BlockHistory(Residual):
    """Knows where blocks begin and end, and which sites take several views.

    Blocks are runs of sites with one block number. The first block reads the embedding.
    """

    def __init__(self, width: int, sites: Sequence[Site], *, channel_dim: int = -1) -> None:
        """Count the blocks."""
        super().__init__(width, sites, channel_dim=channel_dim)
        numbers = [site.block for site in self.sites]
        self.opening = [i == 0 or numbers[i - 1] != n for i, n in enumerate(numbers)]
        self.ending = [*self.opening[1:], True]
        self.ordinal = [sum(self.opening[: i + 1]) - 1 for i in range(len(numbers))]

    def mixes(self, site: int) -> bool:
        """Whether a site reads a mixture of the history."""
        return self.opening[site] and site > 0

    def views(self, site: int) -> tuple[str, ...]:
        """Give query, key and value to an attention of any kind that opens a later block."""
        return VIEWS if self.mixes(site) and self.sites[site].attends else ()
