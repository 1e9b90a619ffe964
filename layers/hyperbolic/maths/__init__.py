"""Pure functions that layers of the ball share: coordinates, range, radial maps, hyperplanes."""
