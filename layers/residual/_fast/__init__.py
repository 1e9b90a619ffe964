"""What of the residual mechanisms is there for speed only: it equals the definitions beside it.

`look_ahead` is what `AttnRes` asks, `delta` what the delta write asks. `depth_kernel` and
`depth_scores` are the depth mix with gradients that keep references, `two_phases` reads a block's
finished sources once, `growing_gradients` says where gradients may grow in place, and `permission`
which path may run.
"""
