"""Sparse products prepared once a graph, and gradients of means of points written by hand."""
