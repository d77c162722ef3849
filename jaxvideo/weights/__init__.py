"""Weights as tables of names. Imports neither models nor data."""
