"""Attention Residuals: the mix over depth, and what reads it: all, blocks, in the ball."""
