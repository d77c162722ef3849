"""Functions and modules over arrays: convolution, normalization, pooling, optical flow."""

from jaxvideo.layers.blocks import Conv2Plus1D, average_predictions, conv_norm
from jaxvideo.layers.conv import Conv3D, conv3d, explicit_padding
from jaxvideo.layers.norm import BatchNorm
from jaxvideo.layers.pool import avg_pool, max_pool

__all__ = [
    "BatchNorm",
    "Conv2Plus1D",
    "Conv3D",
    "average_predictions",
    "avg_pool",
    "conv3d",
    "conv_norm",
    "explicit_padding",
    "max_pool",
]
