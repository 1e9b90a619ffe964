"""Decompositions, spectra, budgets over layers, moments of inputs, and sampling of ranks."""
