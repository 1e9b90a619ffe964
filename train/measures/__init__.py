"""Measures of a trained model: under attack, on foreign images, as a reconstruction of a graph."""
