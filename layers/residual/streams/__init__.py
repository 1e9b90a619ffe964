"""Several residual streams: what they share, hyper-connections, and doubly stochastic mixing."""
