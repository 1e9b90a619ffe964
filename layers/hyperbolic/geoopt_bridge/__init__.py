"""The ball as a manifold of geoopt, for its parameters and optimisers."""
