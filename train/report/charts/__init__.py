"""Charts as SVG: elements, colours, scales, frames, and one file a kind of chart."""
