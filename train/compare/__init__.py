"""Mechanisms side by side on the user's machine: what each costs and how fast each learns."""
