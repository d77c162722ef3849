"""Inference on the device: scores and features of uint8 video."""
