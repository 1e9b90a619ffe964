"""Pure functions that the layers of the ball share: range, radial maps, hyperplanes, additions."""
