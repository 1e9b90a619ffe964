"""The three ways to one result of a hyperbolic layer, one of them at a time."""

import pytest
from archzoo.layers import fast_path
from archzoo.layers._kernels import load_kernels
from archzoo.layers.hyperbolic._fast import fused_layout

HAS_KERNELS = load_kernels("poincare")
HAND_WRITTEN = ["hand", *(["kernel"] if HAS_KERNELS else [])]


def take(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let only one path run: `definition`, `hand` or `kernel`."""
    monkeypatch.setattr(fused_layout, "records_gradients", lambda *given: path != "definition")
    monkeypatch.setattr(fast_path, "load_kernels", lambda family: path == "kernel")
