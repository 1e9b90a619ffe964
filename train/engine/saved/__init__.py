"""What a run leaves on disk, who may write it, and what a run that goes on must find there."""
