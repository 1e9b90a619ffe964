"""Sequences of letters, such as proteins and DNA: read, told apart, cut into tokens and masked."""
