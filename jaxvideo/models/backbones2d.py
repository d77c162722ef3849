"""Image networks applied to every frame: backbones of two-stream, TSN and recurrent networks.

Every module maps a clip `[N, T, H, W, C]` to features `[N, T, h, w, D]` of each frame, and its
endpoints. A 2-D convolution is a `Conv3D` with kernel (1, k, k), so parameters have the names and
ranks of the 3-D networks and `weights.inflate` works for both. Inception-v1 is
`inception.InceptionTrunk`.

    CNN-M-2048       Chatfield, Simonyan, Vedaldi, Zisserman, BMVC 2014 (arXiv 1405.3531), as
                     the two-stream networks use it (arXiv 1406.2199, section 6)
    VGG-16           Simonyan, Zisserman, ICLR 2015 (arXiv 1409.1556), configuration D
    CaffeNet hybrid  LRCN (arXiv 1411.4389), after the authors' prototxt: CaffeNet's depth, the
                     first layers and channels of Zeiler and Fergus' network
    BN-Inception     Ioffe, Szegedy, ICML 2015 (arXiv 1502.03167), after TSN's prototxt: every
                     convolution has a bias although BN follows; Caffe's epsilon of 1e-5
    ResNet-50, -101  He, Zhang, Ren, Sun, CVPR 2016 (arXiv 1512.03385), the stride on the 3 x 3

Pools of the Caffe networks round up. fc6 flattens its input in the order (H, W, C), Caffe and
torch in (C, H, W); importing weights reorders its kernel.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvideo.layers import BatchNorm, Conv3D, avg_pool, conv_norm, max_pool
from jaxvideo.models.contract import check_width, scaled
from jaxvideo.models.resnet3d import BLOCKS, SPATIAL, ResidualBlock, Stage
from jaxvideo.types import Lowering


def local_response_norm(
    x: jax.Array, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
) -> jax.Array:
    """Local response normalization: x / (k + alpha sum x^2)^beta over `size` adjacent channels.

    Krizhevsky et al., NIPS 2012, section 3.3, with their constants. Caffe and torch divide their
    alpha by `size`: 5e-4 there is 1e-4 here.
    """
    squares = jnp.square(x.astype(jnp.float32))
    before = size // 2
    squares = jnp.pad(squares, [(0, 0)] * (x.ndim - 1) + [(before, size - 1 - before)])
    channels = x.shape[-1]
    total = sum(squares[..., i : i + channels] for i in range(size))
    return (x * (k + alpha * total) ** -beta).astype(x.dtype)


# --- Plain networks: convolutions, then fully connected layers ------------------------------


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution with bias, then ReLU."""

    name: str
    features: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1


@dataclasses.dataclass(frozen=True)
class Norm:
    """Local response normalization."""

    name: str
    alpha: float = 1e-4
    k: float = 2.0


@dataclasses.dataclass(frozen=True)
class Pool:
    """A max pool that rounds up."""

    name: str
    kernel: int
    stride: int


@dataclasses.dataclass(frozen=True)
class Hidden:
    """A fully connected layer over each frame, then ReLU and dropout."""

    name: str
    features: int


Layer = Conv | Norm | Pool | Hidden


class ConvNet(nn.Module):
    """Applies a table of layers, then optionally fc8: `(x [N, T, h, w, D], endpoints)`.

    A call can compute only `layers[start:stop]`, so that streams can be fused in between. All calls
    of one instance share its scope. The size of the frames determines the shape of fc6. With fc8,
    the endpoint `pre_logits` is the input of fc8 before dropout.

    Attributes:
      layers: one of the tables of layers in this file.
      num_classes: classes of fc8, which follows the last layer; 0 (default) for no fc8.
      width: factor of all numbers of channels; 1.0 is the papers'.
      time_pool: True if the last pool also takes the maximum over all frames.
      dropout_rate: dropout after every fully connected layer but fc8.
      dtype: compute dtype; parameters are f32.
      lowering: see `types.Lowering`.
    """

    layers: Sequence[Layer]
    num_classes: int = 0
    width: float = 1.0
    time_pool: bool = False
    dropout_rate: float = 0.5
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, start: int = 0, stop: int | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        last_pool = max(i for i, layer in enumerate(self.layers) if isinstance(layer, Pool))
        endpoints, features = {}, x
        for index, layer in list(enumerate(self.layers))[start:stop]:
            if isinstance(layer, Conv):
                x = conv_norm(self._conv(layer), None, x, train=train, activation="relu")
            elif isinstance(layer, Norm):
                x = local_response_norm(x, alpha=layer.alpha, k=layer.k)
            elif isinstance(layer, Pool):
                t = x.shape[1] if self.time_pool and index == last_pool else 1
                window = (t, layer.kernel, layer.kernel)
                x = max_pool(x, window, (1, layer.stride, layer.stride), "CEIL")
            else:
                x = nn.relu(self._hidden(layer)(x.reshape(*x.shape[:2], 1, 1, -1)))
            endpoints[layer.name] = features = x
            if isinstance(layer, Hidden):
                dropout = nn.Dropout(self.dropout_rate, name=f"dropout{layer.name[2:]}")
                x = dropout(x, deterministic=not train)
        if self.num_classes and stop is None:
            init = nn.initializers.normal(0.01)
            x = nn.Dense(self.num_classes, kernel_init=init, name="fc8")(x)
            endpoints["fc8"] = x
            endpoints["pre_logits"] = features
        return x, endpoints

    @nn.nowrap
    def _wide(self, features):
        check_width(self.width)
        # Convolutions with two groups need an even number of channels.
        return max(2 * round(features * self.width / 2), 2)

    @nn.nowrap
    def _conv(self, layer):
        return Conv3D(
            self._wide(layer.features),
            (1, layer.kernel, layer.kernel),
            (1, layer.stride, layer.stride),
            (0, layer.padding, layer.padding),
            layer.groups,
            use_bias=True,
            dtype=self.dtype,
            lowering=self.lowering,
            # Fan-in instead of fan-out: without BN, fan-out would scale down conv1's output.
            kernel_init=nn.initializers.he_normal(),
            name=layer.name,
        )

    @nn.nowrap
    def _hidden(self, layer):
        init = nn.initializers.he_normal()
        features = self._wide(layer.features)
        return nn.Dense(features, dtype=self.dtype, kernel_init=init, name=layer.name)


def layers_up_to(layers: Sequence[Layer], point: str) -> int:
    """Returns the number of layers up to a point: "relu5" (the last conv5...) or "fc6"."""
    prefix = point.replace("relu", "conv")
    return 1 + max(i for i, layer in enumerate(layers) if layer.name.startswith(prefix))


def _vgg16() -> tuple[Layer, ...]:
    layers: list[Layer] = []
    for stage, (convolutions, features) in enumerate(
        ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), 1
    ):
        for number in range(1, convolutions + 1):
            layers.append(Conv(f"conv{stage}_{number}", features, 3, padding=1))
        layers.append(Pool(f"pool{stage}", 2, 2))
    return (*layers, Hidden("fc6", 4096), Hidden("fc7", 4096))


# Sides at 224 pixels: 109, 54, 26, 13, 6. The figure of arXiv 1406.2199 has 2 x 2 pools, its text
# 3 x 3 pools with stride 2; only the latter yield these sizes.
_CNN_M: tuple[Layer, ...] = (
    Conv("conv1", 96, 7, 2),
    Norm("norm1"),
    Pool("pool1", 3, 2),
    Conv("conv2", 256, 5, 2, 1),
    Norm("norm2"),
    Pool("pool2", 3, 2),
    Conv("conv3", 512, 3, padding=1),
    Conv("conv4", 512, 3, padding=1),
    Conv("conv5", 512, 3, padding=1),
    Pool("pool5", 3, 2),
    Hidden("fc6", 4096),
    Hidden("fc7", 2048),
)

# Sides at 227 pixels: 111, 55, 26, 13, 6.
_HYBRID: tuple[Layer, ...] = (
    Conv("conv1", 96, 7, 2),
    Pool("pool1", 3, 2),
    Norm("norm1", alpha=2e-5, k=1.0),
    Conv("conv2", 384, 5, 2, groups=2),
    Pool("pool2", 3, 2),
    Norm("norm2", alpha=2e-5, k=1.0),
    Conv("conv3", 512, 3, padding=1),
    Conv("conv4", 512, 3, padding=1, groups=2),
    Conv("conv5", 384, 3, padding=1, groups=2),
    Pool("pool5", 3, 2),
    Hidden("fc6", 4096),
    Hidden("fc7", 4096),
)

#: Tables for `ConvNet`. The temporal CNN-M has no second normalization (1406.2199, section 6).
CONVNETS: dict[str, tuple[Layer, ...]] = {
    "cnn_m": _CNN_M,
    "cnn_m_temporal": tuple(layer for layer in _CNN_M if layer.name != "norm2"),
    "vgg16": _vgg16(),
    "caffenet_hybrid": _HYBRID,
}


# --- BN-Inception ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Branches:
    """A row of the paper's table: 1x1; reduce, 3x3; reduce, double 3x3; pool and projection.

    A block without the 1x1 branch has stride 2 and no projection after its pool.
    """

    one: int
    three: tuple[int, int]
    double: tuple[int, int]
    pool: str
    projection: int


INCEPTION: dict[str, Branches] = {
    "3a": Branches(64, (64, 64), (64, 96), "average", 32),
    "3b": Branches(64, (64, 96), (64, 96), "average", 64),
    "3c": Branches(0, (128, 160), (64, 96), "max", 0),
    "4a": Branches(224, (64, 96), (96, 128), "average", 128),
    "4b": Branches(192, (96, 128), (96, 128), "average", 128),
    "4c": Branches(160, (128, 160), (128, 160), "average", 128),
    "4d": Branches(96, (128, 192), (160, 192), "average", 128),
    "4e": Branches(0, (128, 192), (192, 256), "max", 0),
    "5a": Branches(352, (192, 320), (160, 224), "average", 128),
    "5b": Branches(352, (192, 320), (192, 224), "max", 128),
}

Unit = Callable[..., jax.Array]


class InceptionBlock(nn.Module):
    """An Inception block: concatenated branches. Scopes are Caffe's names without the block's.

    Attributes:
      branches: a row of `INCEPTION`.
      unit: `unit(x, name, features, kernel, stride, train=)` computes convolution, BN and ReLU.
    """

    branches: Branches
    unit: Unit

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        b, unit = self.branches, functools.partial(self.unit, train=train)
        stride = 1 if b.one else 2
        outputs = [unit(x, "1x1", b.one, 1)] if b.one else []
        y = unit(x, "3x3_reduce", b.three[0], 1)
        outputs.append(unit(y, "3x3", b.three[1], 3, stride))
        y = unit(x, "double_3x3_reduce", b.double[0], 1)
        y = unit(y, "double_3x3_1", b.double[1], 3)
        outputs.append(unit(y, "double_3x3_2", b.double[1], 3, stride))
        if b.pool == "average":
            y = avg_pool(x, (1, 3, 3), (1, 1, 1), (0, 1, 1))
        elif stride == 1:
            y = max_pool(x, (1, 3, 3), (1, 1, 1), (0, 1, 1))
        else:
            y = _halve(x)
        outputs.append(unit(y, "pool_proj", b.projection, 1) if b.projection else y)
        return jnp.concatenate(outputs, axis=-1)


def _halve(x: jax.Array) -> jax.Array:
    """Max pool of 3 with stride 2, padded to the output size of the 3x3 branches.

    For even sizes this is Caffe's pool; for odd sizes it has one more output.
    """
    after = tuple((0, 1 + size % 2) for size in x.shape[2:4])
    return max_pool(x, (1, 3, 3), (1, 2, 2), ((0, 0), *after))


class BNInception(nn.Module):
    """BN-Inception (arXiv 1502.03167): `(features [N, T, H/32, W/32, 1024], endpoints)`.

    Attributes:
      width: factor of all numbers of channels; 1.0 is the paper's.
      partial_bn: in training, every BN but the first uses its running statistics and does not
        update them (TSN, arXiv 1608.00859, section 3.2).
      bn_groups, bn_momentum, bn_epsilon: see `layers.norm`.
      dtype: compute dtype; parameters and statistics are f32.
      lowering: see `types.Lowering`.
    """

    width: float = 1.0
    partial_bn: bool = False
    bn_groups: int = 1
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        norm = _norm(self)

        def convolve(x, norm, name, features, kernel, stride=1, *, train):
            pad = kernel // 2
            conv = Conv3D(
                scaled(features, self.width),
                (1, kernel, kernel),
                (1, stride, stride),
                (0, pad, pad),
                use_bias=True,
                dtype=self.dtype,
                lowering=self.lowering,
                name=name,
            )
            return conv_norm(conv, norm, x, train=train, activation="relu")

        def unit(x, name, *shape, train):
            return convolve(x, norm(name=f"bn_{name}"), f"conv_{name}", *shape, train=train)

        endpoints = {}
        x = convolve(x, norm(name="bn1", frozen=False), "conv1", 64, 7, 2, train=train)
        endpoints["conv1"] = x
        endpoints["pool1"] = x = max_pool(x, (1, 3, 3), (1, 2, 2), "CEIL")
        x = unit(x, "2_reduce", 64, 1, train=train)
        endpoints["conv_2"] = x = unit(x, "2", 192, 3, train=train)
        endpoints["pool2"] = x = max_pool(x, (1, 3, 3), (1, 2, 2), "CEIL")
        for row, branches in INCEPTION.items():
            name = f"inception_{row}"
            x = InceptionBlock(branches, unit, name=name)(x, train=train)
            endpoints[name] = x
        return x, endpoints


class ResNet2D(nn.Module):
    """ResNet (arXiv 1512.03385) of bottlenecks: `(features [N, T, H/32, W/32, 2048], endpoints)`.

    Blocks and scopes are those of `resnet3d`.

    Attributes:
      blocks: bottlenecks per stage.
      Others: see `BNInception`.
    """

    blocks: Sequence[int] = BLOCKS[50]
    width: float = 1.0
    partial_bn: bool = False
    bn_groups: int = 1
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        norm = _norm(self)
        stem = scaled(64, self.width)

        def conv(features, kernel, strides=(1, 1, 1), groups=1, *, name):
            padding = tuple(k // 2 for k in kernel)
            how = {"dtype": self.dtype, "lowering": self.lowering}
            return Conv3D(features, kernel, strides, padding, groups, **how, name=name)

        endpoints = {}
        conv1, bn1 = conv(stem, (1, 7, 7), (1, 2, 2), name="conv1"), norm(name="bn1", frozen=False)
        x = conv_norm(conv1, bn1, x, train=train, activation="relu")
        endpoints["conv1"] = x
        endpoints["pool1"] = x = max_pool(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        for index, blocks in enumerate(self.blocks):
            inner = stem * 2**index
            block = functools.partial(
                ResidualBlock,
                convs=((inner, 1), (inner, 3), (4 * inner, 1)),
                kind=SPATIAL,
                mid_channels="auto",
                shortcut="B",
                preactivation=False,
                groups=1,
                conv=conv,
                norm=norm,
            )
            name = f"conv{index + 2}_x"
            strides = (1, 2, 2) if index else (1, 1, 1)
            x = Stage(blocks, strides, block, name=name)(x, train=train)
            endpoints[name] = x
        return x, endpoints


def _norm(net: BNInception | ResNet2D) -> Callable[..., BatchNorm]:
    return functools.partial(
        BatchNorm,
        momentum=net.bn_momentum,
        epsilon=net.bn_epsilon,
        groups=net.bn_groups,
        frozen=net.partial_bn,
        dtype=net.dtype,
    )


#: Backbones with BN by name; all have the fields of `BNInception`.
BACKBONES: dict[str, Callable[..., Any]] = {
    "bn_inception": BNInception,
    "resnet50": functools.partial(ResNet2D, BLOCKS[50]),
    "resnet101": functools.partial(ResNet2D, BLOCKS[101]),
}

#: Scale and offset of every BN but the first: the value of `optim.frozen` for partial BN. The
#: authors' code freezes them too; the paper mentions mean and variance only.
PARTIAL_BN = ("*/bn_*",)
