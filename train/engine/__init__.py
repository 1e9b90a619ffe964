"""The loop and what it stands on: folders, checkpoints, processes, optimisers, loggers."""
