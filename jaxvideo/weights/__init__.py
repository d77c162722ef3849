"""Weights as NumPy arrays by name: files, names of other libraries, inflation."""
