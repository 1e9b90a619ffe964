"""What the linear layers, convolutions and norms of the ball and of the hyperboloid share."""
