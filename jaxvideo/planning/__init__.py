"""Ahead-of-time resource estimates: memory, FLOPs, collectives and speed of a training step."""
