"""Space parts of the hyperboloid: pure functions of points, and layers over them."""
