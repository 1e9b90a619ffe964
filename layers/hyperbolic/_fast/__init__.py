"""What of the ball's layers is there for speed only: it equals the definitions beside it.

Each `fused_` file holds functions with gradients written by hand, and the call sites of their
compiled kernels: `planes`, `maps` and `weights` for linear layers, convolutions and Möbius sums,
`norm` for midpoint batch normalisation; `layout` says which tensors they take.
"""
