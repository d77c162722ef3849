"""Every distinct convolution of the registry's networks, with small sizes.

They are stored in `zoo_convolutions.json`, because tracing the networks takes a minute.
`tests/models/test_zoo.py`, which traces them, compares.
"""

import dataclasses
import json
from pathlib import Path

from jaxvideo.layers.geometry import Geometry

FILE = Path(__file__).with_suffix(".json")


def made_small(x, w, geometry):
    """Returns `(geometry, channels, features)` on a small map, with at most 16 channels.

    A grouped convolution keeps at most 4 groups, a depthwise one stays depthwise.
    """
    size = tuple(
        n if n < 9 else max(8 + n % 2, k)
        for n, k in zip(geometry.in_size, geometry.kernel, strict=True)
    )
    groups = min(geometry.groups, 4)
    channels, features = min(x[-1], 16), min(w[-1], 16)
    if geometry.groups == x[-1] == w[-1] != 1:
        groups = channels = features
    return (
        Geometry(geometry.kernel, size, geometry.strides, geometry.pads, groups),
        channels,
        features,
    )


def text_of(cases) -> str:
    """Returns the content of the file for a set of results of `made_small`."""
    rows = [[*dataclasses.astuple(geometry), *rest] for geometry, *rest in cases]
    return "[\n" + ",\n".join(sorted(map(json.dumps, rows))) + "\n]\n"


def zoo(depthwise=False):
    """Returns the cases of the file.

    Depthwise convolutions become 4 groups of channels, unless `depthwise` keeps them.
    """
    cases = set()
    for kernel, size, strides, pads, groups, channels, features in json.loads(FILE.read_text()):
        if not depthwise and groups == channels == features != 1:
            groups = 4
        pads = tuple(map(tuple, pads))
        geometry = Geometry(tuple(kernel), tuple(size), tuple(strides), pads, groups)
        cases.add((geometry, channels, features))
    return sorted(cases, key=repr)
