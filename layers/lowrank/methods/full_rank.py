"""Full rank: nothing changes. The comparator of methods, with a learning rate for their targets."""

from ..method import Method, check_rank, rank_of

__all__ = ["Full"]


class Full(Method):
    """Leaves every weight dense, and makes it a target, so that settings of targets apply to it.

    Args:
        rank: Leaves out what a method of this rank leaves out, weights that its factors would not
            make smaller; None takes all.

    Raises:
        ValueError: a rank that no weight can have.
    """

    replaces = False

    def __init__(self, *, rank: int | float | None = None) -> None:
        """Check and keep the rank."""
        if rank is not None:
            check_rank(rank)
        self.rank = rank

    def rank_for(self, name: str, shape: tuple[int, ...]) -> int | None:
        """Return the rank of the method that this one is compared with."""
        return None if self.rank is None else rank_of(self.rank, name, shape)
