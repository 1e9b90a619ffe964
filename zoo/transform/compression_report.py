"""What a compression by data found on its way, for whoever writes it down."""

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["CompressionReport"]


class CompressionReport(NamedTuple):
    """What `compress` looked at before it chose.

    Attributes:
        sensitivity: What errors of different layers were compared by.
        targets: Full rank of every layer that could get factors or a path, by name.
        inputs: By name of a layer, how many vectors its moments are sums over: samples, tokens or
            patches.
        curves: By name of a layer, the measured distortion of the model's outputs at each rank of
            the ladder, before it was made to fall; empty unless `sensitivity` is "output".
    """

    sensitivity: str
    targets: Mapping[str, int]
    inputs: Mapping[str, int]
    curves: Mapping[str, Mapping[int, float]]
