"""Deep Delta Learning: the write, the columns of the state, and the mechanism."""
