"""What methods need of optimisers: a count of updates a vector, resizing, and a step's context."""
