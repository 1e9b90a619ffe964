"""The paths that a delta write may take."""

import pytest
from archzoo.layers.residual.delta.write import delta_write, delta_write_definition

from .delta_parts import PATHS


@pytest.fixture(params=PATHS)
def path(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr("archzoo.layers.fast_path.load_kernels", lambda family: False)
    return request.param


@pytest.fixture(params=["definition", *PATHS])
def write(request, monkeypatch):
    """The write by its definition and by every path."""
    if request.param == "plain":
        monkeypatch.setattr("archzoo.layers.fast_path.load_kernels", lambda family: False)
    return delta_write_definition if request.param == "definition" else delta_write
