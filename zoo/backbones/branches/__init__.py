"""Branches that several backbones have: attention in its kinds, and feed-forward networks."""
