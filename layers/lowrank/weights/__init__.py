"""What a weight is made of: the contract, factors, singular pairs, and kernels as matrices."""
