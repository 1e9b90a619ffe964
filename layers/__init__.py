"""Reusable layers: plain PyTorch modules over pure functions, one idea a file."""
