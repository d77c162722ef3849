"""The names of our variables in the files of every source."""

import json
from pathlib import Path

import pytest

from jaxvideo.models import MODELS
from jaxvideo.weights import tree
from jaxvideo.weights.sources import SOURCES, find_source, names_in_file, sources_of
from tests.models.test_zoo import facts

GOLDEN = Path(__file__).with_suffix(".json")


def names(source: str) -> dict[str, str]:
    """Our names to theirs, for stem, a block and head of the first model of the source."""
    name = next(name for name in MODELS if source in sources_of(name))
    found = find_source(source, name)
    shapes = tree.flatten(facts(name, **found.arguments).trace.variables)
    every = list(names_in_file(shapes, found, ()).items())
    return dict(sorted(every[:24] + every[-24:]))


@pytest.mark.parametrize("source", SOURCES)
def test_names(source):
    """To regenerate after an intended change: python -m tests.weights.test_names"""
    assert names(source) == json.loads(GOLDEN.read_text())[source]


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({source: names(source) for source in SOURCES}, indent=1) + "\n")
