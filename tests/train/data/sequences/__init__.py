"""The readers, tokens, clusters and folds of sequences."""
