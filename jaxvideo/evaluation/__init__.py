"""Evaluation with the test protocols of the papers, for any `predict` function."""
