"""Random augmentation inside the compiled step: flip, colors, erasing, mixup and CutMix.

Every sample has its own random key, so the result depends neither on its position in the batch nor
on the number of devices. All frames of a clip get the same changes: means, extremes and histograms
are computed over the whole clip, and a rectangle is the same in every frame.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxvideo.training.schema import StepAugment

#: RandAugment's operations that do not move pixels (arXiv 1909.13719, section 3).
OPERATIONS = (
    "identity",
    "autocontrast",
    "equalize",
    "solarize",
    "posterize",
    "contrast",
    "brightness",
    "color",
    "sharpness",
)
# The operations before this one are lookup tables per channel.
_POINTWISE = OPERATIONS.index("color")

# Weights of R, G and B in gray (ITU-R 601, as in Pillow).
_GRAY = (0.299, 0.587, 0.114)

# Random erasing: range of the rectangle's share of the image, range of height / width, and number
# of attempts to draw a rectangle that fits (arXiv 1708.04896; bounds of timm and torchvision).
_AREAS = (0.02, 1 / 3)
_ASPECTS = (0.3, 1 / 0.3)
_ATTEMPTS = 10


def sample_keys(key: jax.Array, samples: jax.Array) -> jax.Array:
    """Returns one random key per sample, `[N]`, from its (epoch, video, view), int `[N, 3]`.

    The keys do not depend on the position in the batch, so the number of workers, hosts and
    devices does not change the training data.
    """

    def one(ids):
        sample_key = key
        for position in range(3):
            sample_key = jax.random.fold_in(sample_key, ids[position])
        return sample_key

    return jax.vmap(one)(samples)


def random_flip(video: jax.Array, keys: jax.Array) -> jax.Array:
    """Mirrors each video of uint8 `[N, T, H, W, C]` left to right with probability 1/2.

    If C is 2 or 5, the last two channels are optical flow: its horizontal component is negated.
    """
    mirror = video[:, :, :, ::-1]
    if video.shape[-1] in (2, 5):
        x = video.shape[-1] - 2
        mirror = mirror.at[..., x].set(255 - mirror[..., x])
    mirrored = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(mirrored[:, None, None, None, None], mirror, video)


def change_colors(video: jax.Array, keys: jax.Array, augment: StepAugment) -> jax.Array:
    """Applies color jitter, then RandAugment, to uint8 `[N, T, H, W, C]`.

    Channels after RGB are optical flow and are not changed.
    """

    def one(frames, key):
        jitter, *layers = jax.random.split(key, 1 + augment.randaugment)
        frames = _to_bytes(color_jitter(frames.astype(jnp.float32), jitter, augment))
        for layer in layers:
            which, sign = jax.random.split(layer)
            operation = jax.random.randint(which, (), 0, len(OPERATIONS))
            up = jax.random.bernoulli(sign)
            frames = apply_operation(frames, operation, augment.magnitude, up)
        return frames

    changed = jax.vmap(one)(video[..., :3], keys)
    return changed if video.shape[-1] == 3 else jnp.concatenate([changed, video[..., 3:]], -1)


def color_jitter(frames: jax.Array, key: jax.Array, augment: StepAugment) -> jax.Array:
    """Jitters the colors of one clip `[T, H, W, 3]`, values 0 to 255.

    The order is brightness, contrast, saturation, hue; torchvision's ColorJitter draws it.
    """

    def drawn(number: int, width: float):
        own = jax.random.fold_in(key, number)
        return jax.random.uniform(own, (), minval=-width, maxval=width)

    if augment.brightness:
        frames = _blend(frames, 0.0, 1 + drawn(0, augment.brightness))
    if augment.contrast:
        frames = _blend(frames, _gray(frames).mean(), 1 + drawn(1, augment.contrast))
    if augment.saturation:
        frames = _blend(frames, _gray(frames), 1 + drawn(2, augment.saturation))
    if augment.hue:
        frames = turn_hue(frames, drawn(3, augment.hue))
    return frames


def turn_hue(frames: jax.Array, turns: jax.Array | float) -> jax.Array:
    """Rotates the hue (HSV) of RGB `[..., 3]` by a number of turns."""
    r, g, b = frames[..., 0], frames[..., 1], frames[..., 2]
    value = frames.max(-1)
    chroma = value - frames.min(-1)
    safe = jnp.where(chroma > 0, chroma, 1.0)
    # The hue in sixths of a turn, counted from red.
    hue = jnp.where(
        value == r, (g - b) / safe, jnp.where(value == g, (b - r) / safe + 2, (r - g) / safe + 4)
    )
    channels = []
    for first in (5, 3, 1):
        k = (first + hue + 6 * turns) % 6
        channels.append(value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1))
    return jnp.stack(channels, -1)


def apply_operation(
    frames: jax.Array, operation: jax.Array | int, magnitude: float, up: jax.Array | bool
) -> jax.Array:
    """Applies one of `OPERATIONS` to a clip.

    Args:
      frames: uint8 `[T, H, W, 3]`.
      operation: index in `OPERATIONS`.
      magnitude: 0 to 10.
      up: for operations with a factor: True for 1 + 0.09 m, False for 1 - 0.09 m.

    Returns: uint8 `[T, H, W, 3]`.
    """
    factor = 1 + jnp.where(up, 0.09, -0.09) * magnitude
    table = _tables(frames, magnitude, factor)[jnp.minimum(operation, _POINTWISE - 1)]
    mapped = table[jnp.arange(3), frames]
    values = frames.astype(jnp.float32)
    colored = _to_bytes(_blend(values, _gray(values), factor))
    sharpened = _to_bytes(_blend(values, _smooth(values), factor))
    rest = jnp.where(operation == _POINTWISE, colored, sharpened)
    return jnp.where(operation < _POINTWISE, mapped, rest)


def _tables(frames: jax.Array, magnitude: float, factor: jax.Array) -> jax.Array:
    """Lookup tables of the operations before `_POINTWISE`: uint8 `[operations, 3, 256]`."""
    levels = jnp.arange(256, dtype=jnp.float32)
    counts = jnp.zeros((3, 256), jnp.int32).at[jnp.arange(3), frames].add(1)
    low = frames.min((0, 1, 2)).astype(jnp.float32)[:, None]
    high = frames.max((0, 1, 2)).astype(jnp.float32)[:, None]
    stretched = (levels - low) * 255 / jnp.maximum(high - low, 1)
    step = 2.0 ** round(0.4 * magnitude)
    mean = _gray((counts * levels).sum(-1) / counts.sum(-1))
    tables = [
        levels,
        jnp.where(high > low, stretched, levels),
        _equalized(counts),
        jnp.where(levels >= 256 - 25.6 * magnitude, 255 - levels, levels),
        jnp.floor(levels / step) * step,
        _blend(levels, mean, factor),
        _blend(levels, 0.0, factor),
    ]
    return jnp.stack([_to_bytes(jnp.broadcast_to(table, (3, 256))) for table in tables])


def _equalized(counts: jax.Array) -> jax.Array:
    """Lookup table of histogram equalization per channel (matches Pillow's `equalize`)."""
    levels = jnp.arange(256)
    last = jnp.where(counts > 0, levels, 0).max(-1)
    step = (counts.sum(-1) - jnp.take_along_axis(counts, last[:, None], -1)[:, 0]) // 255
    step = step[:, None]
    before = jnp.cumsum(counts, -1) - counts
    table = jnp.minimum((before + step // 2) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, table, levels).astype(jnp.float32)


def _smooth(frames: jax.Array) -> jax.Array:
    """Pillow's SMOOTH filter: 5/13 of the pixel, 1/13 of each neighbor; the border is kept."""
    rows = frames[:, :-2] + frames[:, 1:-1] + frames[:, 2:]
    sums = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    inner = frames[:, 1:-1, 1:-1]
    return jnp.asarray(frames).at[:, 1:-1, 1:-1].set((sums + 4 * inner) / 13)


def _gray(colors: jax.Array) -> jax.Array:
    """Converts RGB `[..., 3]` to gray `[..., 1]`."""
    return (colors * np.asarray(_GRAY, np.float32)).sum(-1, keepdims=True)


def _blend(values: jax.Array, other: jax.Array | float, factor: jax.Array) -> jax.Array:
    """Extrapolates from `other` (factor 0) through `values` (factor 1); clips to 0..255."""
    return jnp.clip(other + (values - other) * factor, 0, 255)


def _to_bytes(values: jax.Array) -> jax.Array:
    return jnp.clip(jnp.round(values), 0, 255).astype(jnp.uint8)


def erase(clip: jax.Array, keys: jax.Array, probability: float) -> jax.Array:
    """Sets a random rectangle of normalized clips `[N, T, H, W, C]` to 0."""
    height, width = clip.shape[2:4]

    def rectangle(key):
        whether, size, aspect, place = jax.random.split(key, 4)
        area = jax.random.uniform(size, (_ATTEMPTS,), minval=_AREAS[0], maxval=_AREAS[1])
        low, high = np.log(_ASPECTS)
        ratio = jnp.exp(jax.random.uniform(aspect, (_ATTEMPTS,), minval=low, maxval=high))
        h = jnp.round(jnp.sqrt(area * height * width * ratio)).astype(jnp.int32)
        w = jnp.round(jnp.sqrt(area * height * width / ratio)).astype(jnp.int32)
        fits = (h < height) & (w < width)
        h, w = h[fits.argmax()], w[fits.argmax()]
        free = jnp.stack([height - h, width - w])
        top, left = jax.random.randint(place, (2,), 0, free + 1)
        box = _box(clip.shape, top, left, h, w)
        return box & fits.any() & jax.random.bernoulli(whether, probability)

    return jnp.where(jax.vmap(rectangle)(keys), 0, clip)


def mix(
    clip: jax.Array, weight: jax.Array, keys: jax.Array, *, mixup: float, cutmix: float
) -> tuple[jax.Array, jax.Array]:
    """Applies mixup or CutMix to clips, each with its `partner`.

    The share is drawn per clip, from its own key (timm's mode "elem"). Partners of weight 0 could
    not be read; they are not mixed in.

    Args:
      clip: `[N, T, H, W, C]`.
      weight: f32 `[N]`.
      keys: `[N]`.
      mixup, cutmix: see `StepAugment`; at least one is positive.

    Returns:
      The mixed clips, and f32 `[N]`: the share of each that comes from the clip itself.
    """
    height, width = clip.shape[2:4]

    def draw(key):
        which, alpha, place = jax.random.split(key, 3)
        # If only one of the two is on, the other one has probability 0.
        cut = jax.random.bernoulli(which, bool(cutmix) / (bool(mixup) + bool(cutmix)))
        shares = [jax.random.beta(alpha, a, a) for a in (mixup, cutmix) if a]
        share = jnp.where(cut, shares[-1], shares[0])
        # The rectangle has the aspect of the frame and any center; it is cut off at the border.
        side = jnp.sqrt(1 - share)
        half = (jnp.stack([height, width]) * side).astype(jnp.int32) // 2
        center = jax.random.randint(place, (2,), 0, jnp.asarray([height, width]))
        bounds = jnp.asarray([height, width])
        low, high = jnp.maximum(center - half, 0), jnp.minimum(center + half, bounds)
        box = _box(clip.shape, *low, *(high - low)) & cut
        return jnp.where(cut, 1 - box.mean(), share), box, cut

    share, box, cut = jax.vmap(draw)(keys)
    alone = partner(weight) == 0
    share = jnp.where(alone, 1.0, share)
    box = box & ~_wide(alone)
    other = partner(clip)
    blended = _wide(share) * clip.astype(jnp.float32) + _wide(1 - share) * other
    mixed = jnp.where(_wide(cut), jnp.where(box, other, clip), blended.astype(clip.dtype))
    return mixed, share


def partner(values: jax.Array) -> jax.Array:
    """Returns the sample that each sample is mixed with: the one half a global batch away.

    Neighbors are unsuitable, because with repeated augmentation they are from the same video.
    """
    return jnp.roll(values, len(values) // 2, 0)


def _box(shape: tuple[int, ...], top, left, h, w) -> jax.Array:
    """Returns the mask `[1, H, W, 1]` of a rectangle, for all frames of a clip."""
    rows, columns = jnp.arange(shape[2]), jnp.arange(shape[3])
    down = (rows >= top) & (rows < top + h)
    across = (columns >= left) & (columns < left + w)
    return (down[:, None] & across)[None, :, :, None]


def _wide(values: jax.Array) -> jax.Array:
    """Reshapes `[N]` to broadcast over `[N, T, H, W, C]`."""
    return values[:, None, None, None, None]
