"""Hidden two-stream networks: optical flow learned without labels, inside the network.

Zhu, Lan, Newsam, Hauptmann, "Hidden Two-Stream Convolutional Networks for Action Recognition",
ACCV 2018 (arXiv 1704.00389). MotionNet maps 11 RGB frames to the 10 fields of flow between
them; it learns from how well a frame, warped by the flow, gives the frame before it. The
stacked temporal stream feeds its flow to a VGG-16, and both are trained together.

MotionNet, as released (train.prototxt), for 224 x 224; every convolution with bias:

    conv1, conv1_1    64, of 33 channels   224    conv4, conv4_1    512    28
    conv2, conv2_1   128                   112    conv5, conv5_1    512    14
    conv3, conv3_1   256                    56    conv6, conv6_1   1024     7
    predict_flow6     20                     7
    for each level l of 5, 4, 3, 2: conv{l}_1, deconv{l} of the level below and upsample_flow of
    its flow side by side, then smooth_conv{l} (512, 256, 128, 64) and predict_flow{l}

Leaky ReLU of 0.1 after the encoder's convolutions and after deconv{l}, nothing after the others.
The authors kept the biases of deconv{l} and upsample_flow{l} at 0 (`optim.frozen`).
TinyMotionNet is taken from a re-implementation (jbohnslav/deepethogram): its authors released
none. Where the losses differ from the paper or the released layers, `motion_losses` says so.
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
from jaxvideo.models.two_stream import stack_fields
from jaxvideo.types import ConfigError, Lowering

#: A flow of 1, as the layers predict it, is so many pixels of the clip.
PIXELS = 20.0

# --- The losses (section 3.1 of the paper, train.prototxt) ---------------------------------


def motion_losses(
    frames: jax.Array,
    flows: Mapping[int, jax.Array],
    weights: Sequence[float] = (1.0, 1.0, 1.0),
) -> dict[str, jax.Array]:
    """What MotionNet learns from: three losses per level, whose sum is to be minimized.

    At level l images have 1 / 2^(l-1) of the clip's size, and a predicted flow of 1 is
    20 / 2^(l-1) of their pixels. Frame k+1, warped back by flow k, should be frame k:

      - photometric: Charbonnier penalty of the difference of locally normalized images, with
        alpha 0.4, beta 255;
      - smoothness: Charbonnier penalty of the flow's forward differences, with alpha 0.3 and
        the level's pixels as beta; summed over x and y;
      - ssim: 1 - SSIM of 8 x 8 windows, summed over windows and channels, times 0.01 2^(l-2).

    The first two are means over all but a border of a tenth of the shorter side. The released
    layer divides them by the batch of 16 once more, and smoothness by 30 channels instead of
    its 20: its proportions are `weights=(1 / 16, 1 / 24, 1)`. End to end SSIM counts a tenth.
    The paper gives another alpha, 0.45.

    Args:
      frames: `[N, T, H, W, C]`, pixels less their mean, divided by 255.
      flows: predictions by level, `[N, T-1, h, w, 2]`, x then y, in units of 20 pixels of the
        clip.
      weights: of photometric, smoothness and ssim.

    Returns:
      f32 scalars by name, "photometric_6" and so on.
    """
    # Nine channels, more than there are: each pixel is divided by the same for all its colors.
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
    """Mean penalty of the difference of images `[..., h, w, C]`, border left out."""
    return interior(charbonnier(target - warped, alpha=0.4, beta=255.0)).mean()


def smoothness_loss(flow: jax.Array, scale: float) -> jax.Array:
    """Penalty of forward differences of `[..., h, w, 2]`: the sum of u's mean and v's mean."""
    total = 0.0
    for axis in (-3, -2):
        last = jax.lax.slice_in_dim(flow, flow.shape[axis] - 1, None, axis=axis)
        # The last row has no next one: its difference is 0, and is counted.
        change = jnp.diff(flow, axis=axis, append=last)
        total += interior(charbonnier(change, alpha=0.3, beta=scale)).mean()
    return total


def ssim_loss(target: jax.Array, warped: jax.Array) -> jax.Array:
    """1 - SSIM of images `[N, ..., h, w, C]`, summed over windows and channels, per sample.

    Windows are 8 x 8 Gaussians side by side (sigma 8 / 6, the peak at pixel 4, as released);
    the last ones reach over the edge, where there is nothing.
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
    """Generalized Charbonnier penalty ((beta x)^2 + epsilon^2)^alpha."""
    return (jnp.square(beta * x) + epsilon**2) ** alpha


def interior(x: jax.Array) -> jax.Array:
    """`[..., h, w, C]` without a border of a tenth of the shorter side (halves round up)."""
    h, w = x.shape[-3:-1]
    border = (min(h, w) + 5) // 10
    return x[..., border : h - border, border : w - border, :]


def warp(images: jax.Array, flow: jax.Array) -> jax.Array:
    """Images read where the flow points: out(x, y) = image(x + u, y + v), bilinear.

    Args:
      images: `[..., h, w, C]`; outside there is 0.
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
    """`[..., H, W, C]` to a smaller size by triangles as wide as two new pixels.

    Corners stay corners (FlowNet's Downsample layer): new pixel i of n lies at
    i (H - 1) / (n - 1).
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
    """`(flow [N, T-1, h, w, 2], endpoints)` of a clip `[N, T, H, W, C]`: no classifier.

    The flow is f32, x then y, in pixels of the clip, from each frame to the next, at half the
    clip's size. The endpoints `predict_flow{level}` hold each level's, in units of 20 pixels;
    sizes follow the encoder's, also odd ones. T fixes conv1 and the predictions.

    In training the weighted `motion_losses` are sown into the collection "losses".

    Attributes:
      encoder: per level (features, kernel size, convolutions); the first one of each level
        but level 1 has stride 2.
      decoder: features of the levels above the last, downwards to level 2.
      width: multiplies every channel count; 1 is the paper's.
      loss_weights: of the photometric, the smoothness and the SSIM losses.
      dtype: compute dtype; parameters, flow and losses are f32.
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
            raise ConfigError(f"MotionNet: a clip of {x.shape[1]} frame has no motion")
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
        return max(round(features * self.width), 1)


#: Caffe's "msra": normal, over fan-in.
_msra = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def _leaky(x):
    return nn.leaky_relu(x, 0.1)


class HiddenTwoStream(nn.Module):
    """`(logits [N, classes], endpoints)` of an RGB clip `[N, T, H, W, C]`: the temporal stream.

    MotionNet's flow is clipped to 20 pixels, mapped to the bytes of stored flow, enlarged
    bilinearly to the clip's size, less 128, and classified by a VGG-16 whose input is all fields
    as channels. (The authors' enlarging darkens the outermost pixels; this one does not.)
    Endpoints are named `motionnet/...` and `temporal/...`.

    In training MotionNet's losses are sown into the collection "losses": add them to the loss.

    Attributes:
      encoder, decoder, loss_weights: of `MotionNet`; the authors weigh SSIM a tenth here.
      end_to_end: else MotionNet learns from its own losses only, as it does at first.
      width: multiplies every channel count; 1 is the paper's.
      dropout_rate: of VGG-16; the authors have 0.9 after fc6 and 0.8 after fc7.
      dtype: compute dtype; parameters, flow and losses are f32.
    """

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
        how = {"width": self.width, "dtype": self.dtype, "lowering": self.lowering}
        flow, motion = MotionNet(
            self.encoder, self.decoder, loss_weights=self.loss_weights, **how, name="motionnet"
        )(x, train=train)
        if not self.end_to_end:
            flow = jax.lax.stop_gradient(flow)
        stack = stack_fields(as_stored(flow, *x.shape[2:4]) - 128.0)
        logits, temporal = ConvNet(
            CONVNETS["vgg16"],
            self.num_classes,
            dropout_rate=self.dropout_rate,
            **how,
            name="temporal",
        )(stack.astype(self.dtype), train=train)
        endpoints = {f"motionnet/{name}": end for name, end in motion.items()}
        endpoints |= {f"temporal/{name}": end for name, end in temporal.items()}
        return logits.astype(jnp.float32).reshape(len(x), -1), endpoints


def as_stored(flow: jax.Array, height: int, width: int) -> jax.Array:
    """Flow `[N, L, h, w, 2]` in pixels as the bytes of flow images, -20 and 20 being 0 and 255."""
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
