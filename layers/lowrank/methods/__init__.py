"""Low-rank methods, one file each: what they make of a weight, and when they act."""
