"""Every part of the pages that a script writes: `python -m tests.reference` writes them all."""

from collections.abc import Callable

from .adapter_figures import ADAPTER_FIGURES
from .adapter_image_figures import ADAPTER_IMAGE_FIGURES
from .benchmark_figures import BENCHMARK_FIGURES
from .carried_figures import CARRIED_FIGURES
from .claims import claims
from .connect_figures import CONNECT_FIGURES
from .encoder_figures import ENCODER_FIGURES
from .family_figures import FAMILY_FIGURES
from .figures import FIGURES
from .geometry_figures import GEOMETRY_FIGURES
from .graph_figures import GRAPH_FIGURES
from .marked import marked_pages, with_parts
from .mechanisms import EQUATIONS
from .negative_results import negative_results
from .scaling_figures import SCALING_FIGURES

__all__ = ["PARTS", "write_parts"]

PARTS: dict[str, Callable[[], str]] = {
    **FIGURES,
    **FAMILY_FIGURES,
    **ENCODER_FIGURES,
    **GEOMETRY_FIGURES,
    **GRAPH_FIGURES,
    **ADAPTER_FIGURES,
    **SCALING_FIGURES,
    **BENCHMARK_FIGURES,
    **CARRIED_FIGURES,
    **CONNECT_FIGURES,
    **ADAPTER_IMAGE_FIGURES,
    **EQUATIONS,
    "claims": claims,
    "negative_results": negative_results,
}


def write_parts() -> None:
    """Write every part anew, on every page that holds one."""
    for page in marked_pages():
        page.write_text(with_parts(page, PARTS))
