"""The depth mix of attention residuals, compiled."""
