"""The geometry axis: names for the spaces of `geometries`, and what a model's keywords choose.

A backbone asks a geometry for its layers (`geometries.contract`) and knows none by name:

    create_model("vit_tiny", geometry="lorentz", curvature=0.1, head="mlr")
"""

from typing import Literal

from torch import nn

from ...layers.hyperbolic import BallCurvature, keep_one_ball
from ..network import Network
from .geometries.contract import Aggregate as Aggregate
from .geometries.contract import Geometry as Geometry
from .geometries.contract import HeadName as HeadName
from .geometries.euclidean_space import Euclidean
from .geometries.lorentz_space import Lorentz
from .geometries.poincare_ball import Init as Init
from .geometries.poincare_ball import Poincare
from .residuals import ResidualSpec, takes

__all__ = [
    "Aggregate",
    "Geometry",
    "GeometryName",
    "HeadName",
    "Init",
    "choose_geometry",
    "give_head",
    "make_geometry",
]

GeometryName = Literal["euclidean", "poincare", "lorentz"]
CURVATURE = 0.1


def make_geometry(
    name: GeometryName,
    *,
    curvature: float,
    learned_curvature: bool,
    init: Init | None = "normal",
    averaging: Literal["midpoint", "tangent"] = "midpoint",
) -> Geometry:
    """Make a space from what a model's keywords say.

    Raises:
        ValueError: an unknown name, init or averaging, one of the ball's for the hyperboloid, or a
            curvature that is not positive.
    """
    ball = BallCurvature(curvature, learned=learned_curvature)
    if averaging not in ("midpoint", "tangent"):
        raise ValueError(f"averaging must be 'midpoint' or 'tangent', got {averaging!r}")
    if name == "euclidean":
        return Euclidean(ball)
    if name == "poincare":
        return Poincare(ball, init, averaging)
    if name == "lorentz":
        if init not in (None, "normal") or averaging != "midpoint":
            raise ValueError(
                f"init={init!r} and averaging={averaging!r} are choices of geometry='poincare'; "
                f"leave them out with geometry='lorentz'"
            )
        return Lorentz(ball)
    raise ValueError(f"geometry must be 'euclidean', 'poincare' or 'lorentz', got {name!r}")


def choose_geometry(
    name: GeometryName,
    *,
    curvature: float | None,
    learned_curvature: bool,
    head: HeadName | None,
    residual: ResidualSpec,
) -> Geometry:
    """Make the space of a backbone, and refuse a curvature that nothing would have.

    Args:
        name: The geometry.
        curvature: c > 0; None is 0.1 where there is a curvature.
        learned_curvature: Whether c is learned.
        head: The kind of head.
        residual: The residual mechanism.

    Raises:
        ValueError: as `make_geometry`, or a curvature in flat space without a head and a residual
            of points.
    """
    given = curvature is not None or learned_curvature
    if name == "euclidean" and head != "mlr":
        if not given:
            return Euclidean()
        if not takes(residual, "curvature"):
            raise ValueError(
                f"geometry='euclidean' has no curvature, got curvature={curvature} and "
                f"learned_curvature={learned_curvature}; leave them out, or choose another "
                f"geometry, head='mlr' or a residual of points such as 'mobius'"
            )
    value = CURVATURE if curvature is None else curvature
    return make_geometry(name, curvature=value, learned_curvature=learned_curvature, init=None)


def give_head(
    model: Network, space: Geometry, head: HeadName | None, table: nn.Embedding | None = None
) -> None:
    """Give a new model its head, and keep all its layers in one space.

    Args:
        model: Changed in place; it has all other layers.
        space: Its geometry.
        head: The kind of head.
        table: Embeddings that the head shares; None is a head of its own for `num_classes`.
    """
    if table is not None:
        model.head = space.tied_head(head, table)
        # A head for other classes is of the space's own kind.
        head = None
    model.make_head = space.head(head)
    if table is None:
        model.use_head(model.make_head)
    model.shared |= space.shared
    if space.shared:
        keep_one_ball(model)
