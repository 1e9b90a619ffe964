"""LDLᵀ blocks: the maps to weights (chain, skip first, joint), and the modules that own them."""
