"""Recurrent networks over per-frame features: ConvNet+LSTM and LRCN.

ConvNet+LSTM, the first of the networks that Carreira and Zisserman compare (CVPR 2017, arXiv
1705.07750, section 2.1): Inception-v1 on every frame, an LSTM of 512 on the pooled features
with recurrent batch normalization (Cooijmans, Ballas, Laurent, Gulcehre, Courville, ICLR 2017,
arXiv 1603.09025), and a classifier. Trained at every step, tested at the last.

LRCN, Donahue et al., CVPR 2015 (arXiv 1411.4389, section 4): a hybrid CaffeNet's fc6 or fc7 of
every frame, an LSTM of 256 (1024 for flow), a classifier; the predictions of 16 frames averaged.

Both have a loss for every step: `train=True` gives logits `[N, T, classes]`, whose
cross-entropies are averaged, `train=False` the `[N, classes]` of the test; the endpoint "steps"
is always the former.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxvideo.layers import average_predictions
from jaxvideo.models.backbones2d import CONVNETS, ConvNet, layers_up_to
from jaxvideo.models.inception import VARIANTS, InceptionTrunk
from jaxvideo.types import ConfigError, Lowering

FEATURES = ("fc6", "fc7")


class LSTM(nn.Module):
    """Hidden states `[N, T, H]` of a sequence `[N, T, C]`, from zeros; f32.

        i, f, g, o = x_t kernel_ih + h_(t-1) kernel_hh + bias
        c_t = sigmoid(f) c_(t-1) + sigmoid(i) tanh(g),   h_t = sigmoid(o) tanh(c_t)

    Parameters `kernel_ih [C, 4H]`, `kernel_hh [H, 4H]`, `bias [4H]` (torch's two, added), gates in
    torch's order. With `batch_norm` the two products and the c_t inside the last tanh are
    normalized over the batch (arXiv 1603.09025, equations 6 to 8): parameters `scale_ih`,
    `scale_hh`, `scale_c`, which start at 0.1, and `bias_c`. Statistics `mean_*` and `var_*`
    are `[S, ...]`, one row for each of the S steps of the clip the network was initialized on;
    later steps use the last row, and training has no more than S.

    Attributes:
      features: H.
      batch_norm: see above.
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
        """`(which, x [N, F], step) -> (normalized, (mean, var))`; makes the variables."""
        scales, running = {}, {}
        for which, width in (("ih", 4), ("hh", 4), ("c", 1)):
            shape = (width * self.features,)
            scales[which] = self.param(f"scale_{which}", nn.initializers.constant(0.1), shape)
            rows = (steps, *shape)
            mean = self.variable("batch_stats", f"mean_{which}", jnp.zeros, rows)
            var = self.variable("batch_stats", f"var_{which}", jnp.ones, rows)
            running[which] = jnp.asarray(mean.value), jnp.asarray(var.value)
        # The products need no offset of their own beside the gates' bias.
        bias_c = self.param("bias_c", nn.initializers.zeros, (self.features,))
        offsets = {"ih": 0.0, "hh": 0.0, "c": bias_c}
        known = len(running["c"][0])
        if train and steps > known:
            raise ConfigError(f"a clip of {steps} steps: this LSTM has statistics of {known}")
        groups = self.bn_groups
        if train and n % groups:
            raise ConfigError(f"LSTM bn_groups={groups} must divide the batch of {n}")

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
    """Zeros, and ones for the forget gate."""
    del key
    size = shape[0] // 4
    return jnp.zeros(shape, dtype).at[size : 2 * size].set(1.0)


class ConvNetLSTM(nn.Module):
    """ConvNet+LSTM on a clip `[N, T, H, W, C]`; see above for the logits.

    The paper takes every fifth frame at 25 per second: 25 of them in training, 50 at test.

    Attributes:
      hidden: units of the LSTM, times `width`.
      batch_norm: in the LSTM.
      width: multiplies every channel count; 1 is the paper's.
      dropout_rate: on the LSTM's states.
      bn_scale, bn_groups, bn_momentum, bn_epsilon: see `layers.norm`; of the convolutions, the
        last three of the LSTM too.
      dtype: compute dtype of the convolutions; parameters and statistics are f32.
    """

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
        endpoints = {f"net/{name}": end for name, end in ends.items()}
        x = x.astype(jnp.float32).mean((2, 3))
        endpoints["pool"] = x
        hidden = max(round(self.hidden * self.width), 1)
        x = LSTM(hidden, self.batch_norm, **norm, name="lstm")(x, train=train)
        endpoints["lstm"] = x
        x = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")(x)
        steps = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="fc")(x)
        endpoints["steps"] = steps
        logits = steps if train else steps[:, -1]
        endpoints["logits"] = logits
        return logits, endpoints


class LRCN(nn.Module):
    """LRCN on a clip `[N, T, H, W, C]`; see above for the logits.

    Flow, 2 channels, gets its magnitude as a third, as the authors' flow images have it.

    Attributes:
      feature: "fc6" or "fc7".
      hidden: units of the LSTM, times `width`.
      width: multiplies every channel count; 1 is the paper's.
      dropout_rate: on the frame's feature; 0.9 in the authors' prototxt.
      lstm_dropout_rate: on the LSTM's states.
      dtype: compute dtype of the convolutions; parameters are f32.
    """

    feature: str = "fc6"
    hidden: int = 256
    num_classes: int = 101
    width: float = 1.0
    dropout_rate: float = 0.9
    lstm_dropout_rate: float = 0.5
    dtype: Any = jnp.float32
    lowering: Lowering = Lowering.AUTO

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        if self.feature not in FEATURES:
            raise ConfigError(f"feature={self.feature!r}: allowed are {FEATURES}")
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
        endpoints = {f"net/{name}": end for name, end in ends.items()}
        hidden = max(round(self.hidden * self.width), 1)
        x = LSTM(hidden, name="lstm")(x.reshape(*x.shape[:2], -1), train=train)
        endpoints["lstm"] = x
        x = nn.Dropout(self.lstm_dropout_rate, deterministic=not train, name="dropout")(x)
        steps = nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), name="fc8")(x)
        endpoints["steps"] = steps
        logits = steps if train else average_predictions(*jnp.moveaxis(steps, 1, 0))
        endpoints["logits"] = logits
        return logits, endpoints
