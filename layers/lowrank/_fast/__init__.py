"""What is there for speed only: products that keep no matrix for the backward pass."""
