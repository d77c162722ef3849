"""Evaluation by the papers' protocols. Receives a `predict` function; knows no model class."""
