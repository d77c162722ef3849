"""Hidden two-stream networks: optical flow is estimated inside the network, without labels.

Zhu, Lan, Newsam, Hauptmann, "Hidden Two-Stream Convolutional Networks for Action Recognition",
ACCV 2018 (arXiv 1704.00389). MotionNet maps 11 RGB frames to the 10 flow fields between them. Its
loss is the difference between a frame and the next one, warped by the flow. The stacked temporal
stream is a VGG-16 on this flow; both are trained together.

MotionNet, as released (train.prototxt), for 224 x 224; every convolution has a bias:

    conv1, conv1_1    64, of 33 channels   224    conv4, conv4_1    512    28
    conv2, conv2_1   128                   112    conv5, conv5_1    512    14
    conv3, conv3_1   256                    56    conv6, conv6_1   1024     7
    predict_flow6     20                     7
    for each level l of 5, 4, 3, 2: concatenate conv{l}_1, deconv{l} of the level below and
    upsample_flow of its flow; then smooth_conv{l} (512, 256, 128, 64) and predict_flow{l}

Leaky ReLU with slope 0.1 follows the encoder's convolutions and deconv{l}; the others have no
activation. The authors froze the biases of deconv{l} and upsample_flow{l} at 0 (`optim.frozen`).
TinyMotionNet follows a re-implementation (jbohnslav/deepethogram); the authors released none.
`motion_losses` documents the differences from the paper and from the released layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvideo.layers import Conv3D, conv_norm
from jaxvideo.layers.deconv import Deconv3D
from jaxvideo.models.backbones2d import CONVNETS, ConvNet, local_response_norm
from jaxvideo.models.contract import check_clip, prefixed, scaled
from jaxvideo.models.stacks import stack_fields
from jaxvideo.types import ConfigError, Lowering

#: Pixels of the clip per unit of predicted flow.
PIXELS = 20.0

# --- The losses (section 3.1 of the paper, train.prototxt) ---------------------------------


def motion_losses(
    frames: jax.Array,
    flows: Mapping[int, jax.Array],
    weights: Sequence[float] = (1.0, 1.0, 1.0),
) -> dict[str, jax.Array]:
    """Computes the losses of MotionNet: three per level; the total loss is their sum.

    At level l images have 1 / 2^(l-1) of the clip's size, and a predicted flow of 1 is
    20 / 2^(l-1) of their pixels. The losses compare frame k+1, warped back by flow k, with frame k:

    - photometric: Charbonnier penalty of the difference of locally normalized images, with
      alpha 0.4, beta 255;
    - smoothness: Charbonnier penalty of the forward differences of the flow, with alpha 0.3 and
      beta the pixels of the level; summed over x and y;
    - ssim: 1 - SSIM of 8 x 8 windows, summed over windows and channels, times 0.01 2^(l-2).

    The first two are means without a border of a tenth of the shorter side. The released layer
    also divides them by the batch size, 16, and smoothness by 30 channels instead of 20:
    `weights=(1 / 16, 1 / 24, 1)` reproduces its proportions. In end-to-end training the weight of
    SSIM is a tenth. The paper gives alpha 0.45.

    Args:
      frames: `[N, T, H, W, C]`, pixels minus their mean, divided by 255.
      flows: predictions by level, `[N, T-1, h, w, 2]`, x then y, in units of 20 pixels of the
        clip.
      weights: weights of photometric, smoothness and ssim.

    Returns:
      f32 scalars by name, "photometric_6" and so on.
    """
    # A window of 9 channels covers all colors, so they are divided by the same number.
    images = local_response_norm(frames.astype(jnp.float32), size=9, alpha=1 / 9, beta=0.7, k=1.0)
    losses = {}
    for level, flow in flows.items():
        small = downsample(images, *flow.shape[2:4])
        target, scale = small[:, :-1], PIXELS / 2 ** (level - 1)
        warped = warp(small[:, 1:], scale * flow)
        terms = {
            "photometric": photometric_loss(target, warped),
            "smoothness": smoothness_loss(flow, scale),
            "ssim": 0.01 * 2 ** (level - 2) * ssim_loss(target, warped),
        }
        for weight, (name, loss) in zip(weights, terms.items(), strict=True):
            losses[f"{name}_{level}"] = weight * loss
    return losses


def photometric_loss(target: jax.Array, warped: jax.Array) -> jax.Array:
    """Returns the mean penalty of the difference of images `[..., h, w, C]` without the border."""
    return interior(charbonnier(target - warped, alpha=0.4, beta=255.0)).mean()


def smoothness_loss(flow: jax.Array, scale: float) -> jax.Array:
    """Returns the penalty of forward differences of flow `[..., h, w, 2]`, summed over axes."""
    total = 0.0
    for axis in (-3, -2):
        last = jax.lax.slice_in_dim(flow, flow.shape[axis] - 1, None, axis=axis)
        # As released: the last row has difference 0 and counts in the mean.
        change = jnp.diff(flow, axis=axis, append=last)
        total += interior(charbonnier(change, alpha=0.3, beta=scale)).mean()
    return total


def ssim_loss(target: jax.Array, warped: jax.Array) -> jax.Array:
    """Returns 1 - SSIM of images `[N, ..., h, w, C]`, summed over windows and channels, over N.

    Windows are adjacent 8 x 8 Gaussians (sigma 8 / 6, peak at pixel 4, as released). Images are
    zero-padded to full windows.
    """
    x, y = _window_means(warped), _window_means(target)
    xx = _window_means(warped * warped) - x * x
    yy = _window_means(target * target) - y * y
    xy = _window_means(warped * target) - x * y
    luminance = (2 * x * y + 1e-4) / (x * x + y * y + 1e-4)
    structure = (2 * xy + 1e-3) / (xx + yy + 1e-3)
    return (1 - luminance * structure).sum() / target.shape[0]


def _window_means(x: jax.Array) -> jax.Array:
    gauss = np.exp(-((np.arange(8) - 4.0) ** 2) / (2 * (8 / 6) ** 2))
    window = np.outer(gauss, gauss)[:, None, :, None] / gauss.sum() ** 2
    *lead, h, w, c = x.shape
    x = jnp.pad(x, [(0, 0)] * len(lead) + [(0, -h % 8), (0, -w % 8), (0, 0)])
    x = x.reshape(*lead, -(-h // 8), 8, -(-w // 8), 8, c)
    return (x * window.astype(np.float32)).sum((-4, -2))


def charbonnier(x: jax.Array, alpha: float, beta: float, epsilon: float = 1e-3) -> jax.Array:
    """Returns the generalized Charbonnier penalty ((beta x)^2 + epsilon^2)^alpha."""
    return (jnp.square(beta * x) + epsilon**2) ** alpha


def interior(x: jax.Array) -> jax.Array:
    """Crops a border of a tenth of the shorter side (halves round up) from `[..., h, w, C]`."""
    h, w = x.shape[-3:-1]
    border = (min(h, w) + 5) // 10
    return x[..., border : h - border, border : w - border, :]


def warp(images: jax.Array, flow: jax.Array) -> jax.Array:
    """Warps images by a flow: out(x, y) = image(x + u, y + v), bilinear.

    Args:
      images: `[..., h, w, C]`; 0 outside of the image.
      flow: `[..., h, w, 2]`, (u, v) in pixels.
    """
    *lead, h, w, c = images.shape
    x = jnp.arange(w) + flow[..., 0]
    y = jnp.arange(h)[:, None] + flow[..., 1]
    left, top = jnp.floor(x), jnp.floor(y)
    pixels = images.reshape(-1, h * w, c)
    total = 0.0
    for row, row_weight in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, column_weight in ((left, 1 - (x - left)), (left + 1, x - left)):
            inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
            at = jnp.clip(row, 0, h - 1) * w + jnp.clip(column, 0, w - 1)
            at = at.astype(jnp.int32).reshape(-1, h * w)
            values = jax.vmap(lambda image, at: image[at])(pixels, at)
            weight = jnp.where(inside, row_weight * column_weight, 0.0)
            total += weight[..., None] * values.reshape(*lead, h, w, c)
    return total


def downsample(images: jax.Array, height: int, width: int) -> jax.Array:
    """Downsamples `[..., H, W, C]` with a triangular filter as wide as two output pixels.

    Corners are aligned (FlowNet's Downsample layer): output pixel i of n is at i (H - 1) / (n - 1).
    """
    for axis, out in ((-3, height), (-2, width)):
        size = images.shape[axis]
        if out == size:
            continue
        centers = np.linspace(0, size - 1, out) if out > 1 else np.array([(size - 1) / 2])
        step = (size - 1) / max(out - 1, 1)
        weights = np.maximum(1 - np.abs(np.arange(size) - centers[:, None]) / step, 0)
        weights /= weights.sum(1, keepdims=True)
        small = jnp.tensordot(images, weights.astype(np.float32), (axis, 1), precision="highest")
        images = jnp.moveaxis(small, -1, axis)
    return images


# --- The networks ---------------------------------------------------------------------------


class MotionNet(nn.Module):
    """MotionNet (arXiv 1704.00389, section 3.1) on a clip `[N, T, H, W, C]`; it has no classifier.

    Returns `(flow, endpoints)`. The flow is f32 `[N, T-1, h, w, 2]`, x then y, in pixels of the
    clip, from each frame to the next, at half the clip's size. The endpoints
    `predict_flow{level}` are the flow of each level in units of 20 pixels, at the size of the
    encoder's level. T fixes the parameters of conv1 and of the predictions. In training the
    weighted `motion_losses` are sown into the collection "losses".

    Attributes:
      encoder: (features, kernel size, number of convolutions) per level. The first convolution of
        each level but level 1 has stride 2.
      decoder: features per level, from the one above the last down to level 2.
      width: factor of all numbers of channels; 1.0 is the paper's.
      loss_weights: weights of the photometric, the smoothness and the SSIM losses.
      dtype: compute dtype; parameters, flow and losses are f32.
      lowering: see `types.Lowering`.
    """

    encoder: Sequence[tuple[int, int, int]] = (
        (64, 3, 2),
        (128, 3, 2),
        (256, 3, 2),
        (512, 3, 2),
        (512, 3, 2),
        (1024, 3, 2),
    )
    decoder: Sequence[int] = (512, 256, 128, 64)
    width: float = 1.0
    loss_weights: Sequence[float] = (1.0, 1.0, 1.0)
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        if x.shape[1] < 2:
            raise ConfigError(
                f"MotionNet: the clip has {x.shape[1]} frame; flow needs at least 2 frames"
            )
        frames, fields = x, x.shape[1] - 1
        how = {"use_bias": True, "dtype": self.dtype, "lowering": self.lowering}

        def conv(x, features, name, k=3, stride=1):
            strides, padding = (1, stride, stride), (0, k // 2, k // 2)
            layer = Conv3D(
                features, (1, k, k), strides, padding, kernel_init=_msra, **how, name=name
            )
            return conv_norm(layer, None, x, train=train)

        def deconv(x, features, name, like):
            x = Deconv3D(features, (1, 4, 4), (1, 2, 2), (0, 1, 1), **how, name=name)(x)
            return x[:, :, : like.shape[2], : like.shape[3]]

        endpoints, flows = {}, {}

        def predict(x, level):
            name = f"predict_flow{level}"
            stacked = conv(x, 2 * fields, name)
            flow = stacked.astype(jnp.float32).reshape(*x.shape[:1], *x.shape[2:4], fields, 2)
            endpoints[name] = flows[level] = jnp.moveaxis(flow, 3, 1)
            return stacked

        x = stack_fields(x)
        ends = []
        for level, (features, k, convolutions) in enumerate(self.encoder, 1):
            for index in range(convolutions):
                name = f"conv{level}_{index}" if index else f"conv{level}"
                x = conv(x, self._wide(features), name, k, 1 if level == 1 or index else 2)
                endpoints[name] = x = _leaky(x)
            ends.append(x)

        level = len(self.encoder)
        flow = predict(x, level)
        for features in self.decoder:
            name, level = f"upsample_flow{level}", level - 1
            skip, features = ends[level - 1], self._wide(features)
            flow = deconv(flow, 2 * fields, name, skip)
            x = _leaky(deconv(x, features, f"deconv{level}", skip))
            endpoints[f"deconv{level}"] = x
            x = conv(jnp.concatenate([skip, x, flow], -1), features, f"smooth_conv{level}")
            endpoints[f"smooth_conv{level}"] = x
            flow = predict(x, level)

        if train and not self.is_initializing() and self.is_mutable_collection("losses"):
            for name, loss in motion_losses(frames, flows, self.loss_weights).items():
                self.sow("losses", name, loss)
        return PIXELS * flows[level], endpoints

    @nn.nowrap
    def _wide(self, features):
        return scaled(features, self.width)


#: Caffe's "msra" initializer: normal, fan-in.
_msra = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def _leaky(x):
    return nn.leaky_relu(x, 0.1)


class HiddenTwoStream(nn.Module):
    """Hidden temporal stream (arXiv 1704.00389, section 3.2) on an RGB clip `[N, T, H, W, 3]`.

    MotionNet's flow is clipped to 20 pixels, mapped to [0, 255] like stored flow, upsampled
    bilinearly to the clip's size, reduced by 128 and stacked into the channels of a VGG-16. (The
    authors' upsampling darkens the border; this one does not.)

    Returns logits `[N, classes]`, also in training. Endpoints have the prefixes "motionnet/" and
    "temporal/"; `pre_logits` is VGG's fc7, `[N, 1, 1, 1, 4096]`. In training MotionNet's losses are
    sown into the collection "losses"; add them to the loss.

    Attributes:
      encoder, decoder, loss_weights: see `MotionNet`; the authors' weight of SSIM here is 0.1.
      end_to_end: True: the classification loss trains MotionNet too. False: only its own losses
        do, as in the authors' first phase.
      width: factor of all numbers of channels; 1.0 is the paper's.
      dropout_rate: dropout after VGG's fc6 and fc7; the authors use 0.9 and 0.8.
      dtype: compute dtype; parameters, flow and losses are f32.
      lowering: see `types.Lowering`.
    """

    head = "temporal/fc8"

    num_classes: int = 101
    encoder: Sequence[tuple[int, int, int]] = MotionNet.encoder
    decoder: Sequence[int] = MotionNet.decoder
    width: float = 1.0
    loss_weights: Sequence[float] = (1.0, 1.0, 0.1)
    dropout_rate: float = 0.9
    end_to_end: bool = True
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        check_clip(self, x, (3,))
        how = {"width": self.width, "dtype": self.dtype, "lowering": self.lowering}
        flow, motion = MotionNet(
            self.encoder, self.decoder, loss_weights=self.loss_weights, **how, name="motionnet"
        )(x, train=train)
        if not self.end_to_end:
            flow = jax.lax.stop_gradient(flow)
        stack = stack_fields(as_stored(flow, *x.shape[2:4]) - 128.0)
        scores, temporal = ConvNet(
            CONVNETS["vgg16"],
            self.num_classes,
            dropout_rate=self.dropout_rate,
            **how,
            name="temporal",
        )(stack.astype(self.dtype), train=train)
        endpoints = prefixed("motionnet", motion) | prefixed("temporal", temporal)
        logits = scores.astype(jnp.float32).reshape(len(x), -1)
        return logits, {**endpoints, "pre_logits": temporal["pre_logits"], "logits": logits}


def as_stored(flow: jax.Array, height: int, width: int) -> jax.Array:
    """Maps flow `[N, L, h, w, 2]` from [-20, 20] pixels to [0, 255], and resizes it."""
    levels = 6.375 * (jnp.clip(flow, -PIXELS, PIXELS) + PIXELS)
    shape = (*flow.shape[:2], height, width, 2)
    return jax.image.resize(levels, shape, "linear", precision=jax.lax.Precision.HIGHEST)


#: MotionNets by name.
MOTIONNETS: dict[str, dict[str, Any]] = {
    "motionnet": {},
    "tiny_motionnet": {
        "encoder": ((64, 7, 1), (128, 5, 1), (256, 3, 1), (128, 3, 1)),
        "decoder": (128, 64),
    },
}
