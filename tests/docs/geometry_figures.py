"""Tables of what curved spaces cost and how far they reach."""

from ..reference import table
from .kept import rows

__all__ = ["GEOMETRY_FIGURES"]


def geometry_range() -> str:
    """The error of attention at each distance from the origin."""
    found = [row for row in rows("geometry_range") if "radii" in row]
    columns = [name for name in found[0] if name != "radii"]
    return table(
        ("R", *columns),
        *((f"{row['radii']:g}", *(f"{row[name]:.0e}" for name in columns)) for row in found),
    )


def geometry_costs() -> str:
    """Models of curved spaces over their flat twins."""
    found = [row for row in rows("geometry_models") if row["geometry"] != "euclidean"]
    return table(
        ("model", "geometry", "time", "bytes kept"),
        *(
            (
                f"`{name}`{comma}{rest}",
                f"`{row['geometry']}`",
                f"{row['time']:.2f}×",
                f"{row['kept']:.2f}×" if "kept" in row else "",
            )
            for row in found
            for name, comma, rest in [row["model"].partition(",")]
        ),
    )


def geometry_parts() -> str:
    """Blocks, attention and convolutions, in time and bytes over the first of each case."""
    return table(
        ("", "", "time", "bytes kept"),
        *(
            (row["case"], row["layer"], f"{row['time']:.2f}×", f"{row['kept']:.2f}×")
            for row in rows("geometry")
        ),
    )


GEOMETRY_FIGURES = {
    function.__name__: function for function in (geometry_range, geometry_costs, geometry_parts)
}
