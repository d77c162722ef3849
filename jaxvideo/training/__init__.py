"""Training: the state, the pure step, optimisation, checkpoints and the loop."""
