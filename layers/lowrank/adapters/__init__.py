"""Adapters: what is trained beside weights that stay as they are, one file a preset."""
