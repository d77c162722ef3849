"""Every distinct convolution of the registry's networks, made small."""

import functools

from jaxvideo.layers.geometry import Geometry
from jaxvideo.models import create_model, list_models, model_entry
from jaxvideo.models.summary import convolutions


@functools.cache
def _convolutions():
    seen, kinds = set(), {}
    for name in list_models():
        entry = model_entry(name)
        # Networks that differ in depth only have the same convolutions.
        form = {key: value for key, value in entry.arguments.items() if key != "blocks"}
        kinds.setdefault((entry.build, entry.preprocessing, repr(form)), name)
    for name in kinds.values():
        shape = (1, *model_entry(name).preprocessing.shape)
        seen.update(convolutions(create_model(name), shape))
    return seen


def zoo(depthwise=False):
    """Returns sorted `(geometry, channels, features)` on small maps, with at most 16 channels.

    Depthwise convolutions become 4 groups of 4 channels, unless `depthwise` keeps them.
    """
    small = set()
    for x, w, geometry in _convolutions():
        size = tuple(
            n if n < 9 else max(8 + n % 2, k)
            for n, k in zip(geometry.in_size, geometry.kernel, strict=True)
        )
        groups = min(geometry.groups, 4)
        channels, features = min(x[-1], 16), min(w[-1], 16)
        if depthwise and geometry.groups == x[-1] == w[-1] != 1:
            groups = channels = features
        form = Geometry(geometry.kernel, size, geometry.strides, geometry.pads, groups)
        small.add((form, channels, features))
    return sorted(small, key=repr)
