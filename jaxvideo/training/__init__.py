"""Training: the state, the pure step, optimization, checkpoints and the loop."""
