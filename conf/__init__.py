"""Hydra configs. The groups `model` and `data` come from the registries and have no files."""
