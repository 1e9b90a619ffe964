"""What is done with a finished run, a command each: certify, export, robustness, pictures."""
