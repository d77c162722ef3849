"""Weights from other libraries' files and from our own, fitted to the networks of the registry.

    reading      a file to the variables of a network, with preprocessing and class names
    fitting      arrays to the variables of a network: shape checks, heads, fresh values
    named        weights by name: downloaded, and converted to our own format
    saving       `Weights`, and our own file format
    comparison   parity with the library that a file comes from

The table of sources is `weights.sources`.
"""

from jaxvideo.pretrained.comparison import compare_with_reference
from jaxvideo.pretrained.fitting import adopt, fresh_values
from jaxvideo.pretrained.named import is_tag, named_weights, original_of
from jaxvideo.pretrained.reading import load_weights, open_weights, read_weights
from jaxvideo.pretrained.saving import Weights, save_weights
from jaxvideo.weights.sources import SOURCES, Source, find_source, sources_of

__all__ = [
    "SOURCES",
    "Source",
    "Weights",
    "adopt",
    "compare_with_reference",
    "find_source",
    "fresh_values",
    "is_tag",
    "load_weights",
    "named_weights",
    "open_weights",
    "original_of",
    "read_weights",
    "save_weights",
    "sources_of",
]
