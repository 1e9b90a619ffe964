"""Mixtures of earlier blocks that a block reads, with weights that are learned or computed."""
