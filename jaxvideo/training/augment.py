"""What the compiled step draws at random, besides the flip: colors, erasing, mixing.

A batch at a time, with a key per sample, so that neither a sample's place nor the number of
devices changes what is drawn. All frames of a clip are changed alike: means, extremes and
histograms are of the whole clip, and a rectangle is the same one in every frame.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxvideo.training.schema import StepAugment

#: RandAugment's operations that move no pixel (arXiv 1909.13719, section 3).
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
# The first ones map the bytes of a channel to others.
_POINTWISE = OPERATIONS.index("color")

# Light of R, G and B in gray (ITU-R 601, as Pillow's).
_GRAY = (0.299, 0.587, 0.114)

# A random rectangle: shares of the picture's area, range of height over width, and how often
# one that does not fit is drawn anew (arXiv 1708.04896; the bounds are timm's and torchvision's).
_AREAS = (0.02, 1 / 3)
_ASPECTS = (0.3, 1 / 0.3)
_ATTEMPTS = 10


def change_colors(video: jax.Array, keys: jax.Array, augment: StepAugment) -> jax.Array:
    """Color jitter, then RandAugment, of uint8 `[N, T, H, W, C]`; bytes again.

    Channels after RGB are flow, and stay.
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
    """One clip `[T, H, W, 3]` of 0 to 255: brightness, contrast, saturation, hue, in this order
    (torchvision's ColorJitter draws the order)."""

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
    """RGB whose hue, of the HSV cone, is that many turns further."""
    r, g, b = frames[..., 0], frames[..., 1], frames[..., 2]
    value = frames.max(-1)
    chroma = value - frames.min(-1)
    safe = jnp.where(chroma > 0, chroma, 1.0)
    # In sixths of a turn: where in the cone the color lies, counted from red.
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
    """One clip, uint8 `[T, H, W, 3]`, after one of `OPERATIONS`, by its index.

    `up` chooses the larger of the two factors, where an operation has one.
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
    """What the pointwise operations make of each byte: uint8 `[operations, 3, 256]`."""
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
    """For each channel, the table that makes its bytes even frequent (Pillow's `equalize`)."""
    levels = jnp.arange(256)
    last = jnp.where(counts > 0, levels, 0).max(-1)
    step = (counts.sum(-1) - jnp.take_along_axis(counts, last[:, None], -1)[:, 0]) // 255
    step = step[:, None]
    before = jnp.cumsum(counts, -1) - counts
    table = jnp.minimum((before + step // 2) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, table, levels).astype(jnp.float32)


def _smooth(frames: jax.Array) -> jax.Array:
    """Pillow's SMOOTH: of 13 parts, 5 are the pixel's own; the border stays."""
    rows = frames[:, :-2] + frames[:, 1:-1] + frames[:, 2:]
    sums = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    inner = frames[:, 1:-1, 1:-1]
    return jnp.asarray(frames).at[:, 1:-1, 1:-1].set((sums + 4 * inner) / 13)


def _gray(colors: jax.Array) -> jax.Array:
    """Gray of `[..., 3]`, `[..., 1]`."""
    return (colors * np.asarray(_GRAY, np.float32)).sum(-1, keepdims=True)


def _blend(values: jax.Array, other: jax.Array | float, factor: jax.Array) -> jax.Array:
    """From `other`, at factor 0, through the values, at 1, and on; within 0 to 255."""
    return jnp.clip(other + (values - other) * factor, 0, 255)


def _to_bytes(values: jax.Array) -> jax.Array:
    return jnp.clip(jnp.round(values), 0, 255).astype(jnp.uint8)


def erase(clip: jax.Array, keys: jax.Array, probability: float) -> jax.Array:
    """Random erasing of a normalized clip `[N, T, H, W, C]`: a rectangle becomes 0."""
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
    """Mixup or CutMix of `[N, T, H, W, C]` with each clip's `partner`: clips, and the share of
    each that is its own, f32 `[N]`.

    The share is drawn for each clip, by its own key (timm's "elem"). A partner without weight,
    whose pixels are another video's, is not mixed in.
    """
    height, width = clip.shape[2:4]

    def draw(key):
        which, alpha, place = jax.random.split(key, 3)
        # With one of the two, the other's chance is 0.
        cut = jax.random.bernoulli(which, bool(cutmix) / (bool(mixup) + bool(cutmix)))
        shares = [jax.random.beta(alpha, a, a) for a in (mixup, cutmix) if a]
        share = jnp.where(cut, shares[-1], shares[0])
        # CutMix's rectangle has the frame's aspect, any center, and may reach out of the frame.
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
    """What each sample is mixed with: the sample half a batch away, of the global batch.

    Neighbors would not do: repeated augmentation puts clips of one video side by side.
    """
    return jnp.roll(values, len(values) // 2, 0)


def _box(shape: tuple[int, ...], top, left, h, w) -> jax.Array:
    """A rectangle of all frames of a clip, as a mask `[1, H, W, 1]`."""
    rows, columns = jnp.arange(shape[2]), jnp.arange(shape[3])
    down = (rows >= top) & (rows < top + h)
    across = (columns >= left) & (columns < left + w)
    return (down[:, None] & across)[None, :, :, None]


def _wide(values: jax.Array) -> jax.Array:
    return values[:, None, None, None, None]
