"""Relations among pairs drawn evenly from all: a true pair beside others of no node in common.

Where a negative shares its first node with the true pair, the degree of that node says nothing.
Among even pairs it does: in many networks the product of two degrees alone tells links well.
"""

# Shape letters: B samples in a batch, N nodes, R relations, K negatives.

import torch
from torch import Tensor

from ..counter_random import counter_uniform
from ..data_set import Key
from ..relations import RelationFold

__all__ = ["EvenPairFold"]


class EvenPairFold(RelationFold):
    """Relations with negative pairs that are a function of the sample's key.

    A negative is uniform among the pairs of different nodes, in order, that are no known relation.
    The arguments are those of `RelationFold`.

    Raises:
        ValueError: as there, or known relations between all nodes.
    """

    def __init__(
        self,
        relations: Tensor,
        known: Tensor,
        num_nodes: int,
        negatives: int,
        *,
        draw: int | None = None,
    ) -> None:
        """List the pairs that are no negatives once."""
        super().__init__(relations, known, num_nodes, negatives, draw=draw)
        itself = torch.arange(num_nodes) * (num_nodes + 1)
        taken = torch.unique(torch.cat([known[:, 0] * num_nodes + known[:, 1], itself]))
        # The r-th pair left lies as many places up as there are taken ones before it.
        self._steps = taken - torch.arange(len(taken))
        self._left = num_nodes**2 - len(taken)
        if not self._left:
            raise ValueError("every pair of nodes is a known relation: there is no negative")

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return (1 + self.negatives, 2)

    def __getitems__(self, keys: list[Key]) -> tuple[Tensor, Tensor]:
        """Fetch a batch: pairs (B, 1 + K, 2), the true one first, and targets (B,) of 0."""
        pairs = torch.tensor(keys, dtype=torch.int64).reshape(-1, 2)
        rounds, indices = pairs[:, 0], pairs[:, 1]
        if self.draw is not None:
            rounds = torch.full_like(rounds, self.draw)
        # Two draws of 24 bits: there may be more pairs than one of them has values.
        coarse, fine = counter_uniform(rounds, indices, 2 * self.negatives).double().chunk(2, 1)
        ranks = ((coarse + fine * 2.0**-24) * self._left).long()
        codes = ranks + torch.searchsorted(self._steps, ranks, right=True)
        drawn = torch.stack([codes // self.num_nodes, codes % self.num_nodes], -1)
        true = self.relations[indices][:, None]
        return torch.cat([true, drawn], 1), torch.zeros(len(keys), dtype=torch.int64)
