"""Recurrent networks over per-frame features: ConvNet+LSTM and LRCN.

ConvNet+LSTM, a baseline of Carreira and Zisserman (CVPR 2017, arXiv 1705.07750, section 2.1):
Inception-v1 on every frame, an LSTM of 512 units on the pooled features with recurrent batch
normalization (Cooijmans, Ballas, Laurent, Gulcehre, Courville, ICLR 2017, arXiv 1603.09025), and a
classifier. The loss is on every step, the test uses the last one.

LRCN, Donahue et al., CVPR 2015 (arXiv 1411.4389, section 4): fc6 or fc7 of a hybrid CaffeNet on
every frame, an LSTM of 256 units (1024 for flow), a classifier. The loss is on every step, the
test averages the predictions of all 16 frames.

Hence both networks return logits `[N, T, classes]` in training, and `[N, classes]` at test. The
endpoint `steps` always has shape `[N, T, classes]`.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxvideo.layers import average_predictions
from jaxvideo.models.backbones2d import CONVNETS, ConvNet, layers_up_to
from jaxvideo.models.contract import check_clip, free, prefixed, scaled
from jaxvideo.models.inception import VARIANTS, InceptionTrunk
from jaxvideo.types import ConfigError, Lowering

FEATURES = ("fc6", "fc7")


class LSTM(nn.Module):
    """An LSTM: f32 hidden states `[N, T, H]` of a sequence `[N, T, C]`; the initial state is zero.

        i, f, g, o = x_t kernel_ih + h_(t-1) kernel_hh + bias
        c_t = sigmoid(f) c_(t-1) + sigmoid(i) tanh(g),   h_t = sigmoid(o) tanh(c_t)

    Parameters are `kernel_ih [C, 4H]`, `kernel_hh [H, 4H]` and `bias [4H]` (the sum of torch's
    two), gates in torch's order. With `batch_norm` the two products and the c_t inside the last
    tanh are normalized over the batch (arXiv 1603.09025, equations 6 to 8), with parameters
    `scale_ih`, `scale_hh` and `scale_c`, initially 0.1, and `bias_c`. Statistics `mean_*` and
    `var_*` are `[S, ...]`, one row per step of the clip that the network was initialized with. At
    test, later steps use the last row; in training, a clip has at most S steps.

    Attributes:
      features: H, number of units.
      batch_norm: recurrent batch normalization, see above.
      bn_groups, bn_momentum, bn_epsilon: see `layers.norm`.
    """

    features: int
    batch_norm: bool = False
    bn_groups: int = 1
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        n, steps, channels = x.shape
        size = self.features
        kernel_ih = self.param("kernel_ih", nn.initializers.glorot_uniform(), (channels, 4 * size))
        kernel_hh = self.param("kernel_hh", _orthogonal_gates, (size, 4 * size))
        bias = self.param("bias", _remember, (4 * size,))
        normalize = self._normalization(n, steps, train) if self.batch_norm else None

        def step(carry, inputs):
            h, c = carry
            from_input, index = inputs
            from_hidden, seen = h @ kernel_hh, {}
            if normalize:
                from_input, seen["ih"] = normalize("ih", from_input, index)
                from_hidden, seen["hh"] = normalize("hh", from_hidden, index)
            i, f, g, o = jnp.split(from_input + from_hidden + bias, 4, axis=-1)
            c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
            shown = c
            if normalize:
                shown, seen["c"] = normalize("c", c, index)
            h = nn.sigmoid(o) * jnp.tanh(shown)
            return (h, c), (h, seen)

        products = jnp.moveaxis(x.astype(jnp.float32) @ kernel_ih, 1, 0)
        zeros = jnp.zeros((n, size), jnp.float32)
        _, (states, seen) = lax.scan(step, (zeros, zeros), (products, jnp.arange(steps)))
        if train and not self.is_initializing():
            self._keep(seen, steps)
        return jnp.moveaxis(states, 0, 1)

    def _normalization(self, n, steps, train):
        """Returns `(which, x [N, F], step) -> (normalized, (mean, var))`."""
        scales, running = {}, {}
        for which, width in (("ih", 4), ("hh", 4), ("c", 1)):
            shape = (width * self.features,)
            scales[which] = self.param(f"scale_{which}", nn.initializers.constant(0.1), shape)
            rows = (steps, *shape)
            mean = self.variable("batch_stats", f"mean_{which}", jnp.zeros, rows)
            var = self.variable("batch_stats", f"var_{which}", jnp.ones, rows)
            running[which] = jnp.asarray(mean.value), jnp.asarray(var.value)
        # The bias of the gates is the offset of both products.
        bias_c = self.param("bias_c", nn.initializers.zeros, (self.features,))
        offsets = {"ih": 0.0, "hh": 0.0, "c": bias_c}
        known = len(running["c"][0])
        if train and steps > known:
            raise ConfigError(
                f"a clip of {steps} frames: this LSTM has BN statistics for {known} steps, so "
                f"clips can have at most {known} frames in training"
            )
        groups = self.bn_groups
        if train and n % groups:
            raise ConfigError(f"LSTM: bn_groups={groups} must divide the batch size {n}")

        def normalize(which, x, index):
            if train:
                grouped = x.reshape(groups, n // groups, -1)
                mean, var = grouped.mean(1, keepdims=True), grouped.var(1, keepdims=True)
                y = (grouped - mean) * lax.rsqrt(var + self.bn_epsilon)
                y, seen = y.reshape(x.shape), (mean.mean((0, 1)), var.mean((0, 1)))
            else:
                row = jnp.minimum(index, known - 1)
                seen = tuple(rows[row] for rows in running[which])
                y = (x - seen[0]) * lax.rsqrt(seen[1] + self.bn_epsilon)
            return scales[which] * y + offsets[which], seen

        return normalize

    def _keep(self, seen, steps):
        for which, statistics in seen.items():
            for name, new in zip((f"mean_{which}", f"var_{which}"), statistics, strict=True):
                old = jnp.asarray(self.get_variable("batch_stats", name))
                mixed = self.bn_momentum * old[:steps] + (1 - self.bn_momentum) * new
                self.put_variable("batch_stats", name, old.at[:steps].set(mixed))


def _orthogonal_gates(key, shape, dtype=jnp.float32):
    square = (shape[0], shape[0])
    init = nn.initializers.orthogonal()
    return jnp.concatenate([init(one, square, dtype) for one in jax.random.split(key, 4)], axis=1)


def _remember(key, shape, dtype=jnp.float32):
    """Initializer of the bias: ones for the forget gate, zeros for the others."""
    del key
    size = shape[0] // 4
    return jnp.zeros(shape, dtype).at[size : 2 * size].set(1.0)


class ConvNetLSTM(nn.Module):
    """ConvNet+LSTM (arXiv 1705.07750, section 2.1) on a clip `[N, T, H, W, C]`.

    The paper uses every fifth frame at 25 fps: 25 frames in training, 50 at test. Returns logits
    `[N, T, classes]` in training, and those of the last frame, `[N, classes]`, at test.
    `pre_logits` are the LSTM's states, `[N, T, 512]`.

    Attributes:
      hidden: units of the LSTM; `width` scales them.
      batch_norm: recurrent batch normalization in the LSTM.
      width: factor of all numbers of channels; 1.0 is the paper's.
      dropout_rate: dropout before the classifier.
      bn_scale, bn_groups, bn_momentum, bn_epsilon: see `layers.norm`. For the convolutions; the
        last three also for the LSTM.
      dtype: compute dtype of the convolutions; parameters and statistics are f32.
      lowering: see `types.Lowering`.
    """

    head = "fc"

    hidden: int = 512
    batch_norm: bool = True
    num_classes: int = 400
    width: float = 1.0
    dropout_rate: float = 0.0
    bn_scale: bool = False
    bn_groups: int = 1
    bn_momentum: float = 0.999
    bn_epsilon: float = 1e-3
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        check_clip(self, x, stem="net/conv_1a")
        norm = {name: getattr(self, name) for name in ("bn_groups", "bn_momentum", "bn_epsilon")}
        trunk = InceptionTrunk(
            self.width,
            **VARIANTS["inception_v1"],
            **norm,
            bn_scale=self.bn_scale,
            dtype=self.dtype,
            lowering=self.lowering,
            name="net",
        )
        x, ends = trunk(x, train=train)
        endpoints = prefixed("net", ends)
        x = x.astype(jnp.float32).mean((2, 3))
        endpoints["pool"] = x
        lstm = LSTM(scaled(self.hidden, self.width), self.batch_norm, **norm, name="lstm")
        endpoints["lstm"] = states = lstm(x, train=train)
        x = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")(states)
        steps = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="fc")(x)
        endpoints["steps"] = steps
        logits = steps if train else steps[:, -1]
        return logits, {**endpoints, "pre_logits": states, "logits": logits}


class LRCN(nn.Module):
    """LRCN (arXiv 1411.4389, section 4) on a clip `[N, T, H, W, C]`, RGB or flow.

    The magnitude of flow is added as a third channel, as in the authors' flow images. Returns
    logits `[N, T, classes]` in training; at test `[N, classes]`, whose softmax is the average of
    the predictions of all frames. `pre_logits` are the LSTM's states, `[N, T, 256]`.

    Attributes:
      feature: input of the LSTM, "fc6" or "fc7".
      hidden: units of the LSTM; `width` scales them.
      width: factor of all numbers of channels; 1.0 is the paper's.
      dropout_rate: dropout after fc6 and fc7; 0.9 in the authors' prototxt.
      lstm_dropout_rate: before the classifier.
      dtype: compute dtype of the convolutions; parameters are f32.
      lowering: see `types.Lowering`.
    """

    head = "fc8"

    feature: str = "fc6"
    hidden: int = 256
    num_classes: int = 101
    width: float = 1.0
    dropout_rate: float = 0.9
    lstm_dropout_rate: float = free(0.5)
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        if self.feature not in FEATURES:
            raise ConfigError(f"feature={self.feature!r}: allowed are {FEATURES}")
        check_clip(self, x, (2, 3))
        if x.shape[-1] == 2:
            size = jnp.sqrt(jnp.square(x.astype(jnp.float32)).sum(-1, keepdims=True))
            x = jnp.concatenate((x, size.astype(x.dtype)), axis=-1)
        layers = CONVNETS["caffenet_hybrid"]
        net = ConvNet(
            layers[: layers_up_to(layers, self.feature)],
            width=self.width,
            dropout_rate=self.dropout_rate,
            dtype=self.dtype,
            lowering=self.lowering,
            name="net",
        )
        x, ends = net(x, train=train)
        endpoints = prefixed("net", ends)
        lstm = LSTM(scaled(self.hidden, self.width), name="lstm")
        endpoints["lstm"] = states = lstm(x.reshape(*x.shape[:2], -1), train=train)
        x = nn.Dropout(self.lstm_dropout_rate, deterministic=not train, name="dropout")(states)
        steps = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="fc8")(x)
        endpoints["steps"] = steps
        logits = steps if train else average_predictions(*jnp.moveaxis(steps, 1, 0))
        return logits, {**endpoints, "pre_logits": states, "logits": logits}
