"""Inference: from uint8 video to scores and features, on the device."""
