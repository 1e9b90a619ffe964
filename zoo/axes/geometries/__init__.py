"""What layers are in each space: one file a geometry, and the contract that all keep."""
