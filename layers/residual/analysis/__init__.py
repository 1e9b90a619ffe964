"""Expansions of an additive stack, by branches on a path and by powers. For analysis only."""
