"""Experiments of single papers: X3D expansion, linear SVMs on features, ASLAN."""
