"""The delta write and the compression of its columns, compiled."""
