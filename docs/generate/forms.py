"""Example trees of the forms of data sets, from the small data sets that the tests read."""

import importlib.util
import inspect
import logging
import tempfile
from pathlib import Path

from generate.text import code, escaped
from jaxvideo.data.datasets.forms import FORMS
from jaxvideo.data.datasets.load import load_dataset
from jaxvideo.progress import LOG

ROOT = Path(__file__).parents[2]
HEAD = """# Data forms by example

A small data set of every [form](../data.md#forms): its files, its annotations, and how
`load_dataset` reads it. Generated from `tests/data/published.py`, whose data sets the tests read.
Annotations that are longer than a few lines are cut.
"""
FILES, LINES, WIDTH = 9, 6, 96  # what is shown of a directory, a file and a line


def _published():
    spec = importlib.util.spec_from_file_location("published", ROOT / "tests/data/published.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tree(root: Path) -> str:
    """Returns the files below a directory, as the program `tree` prints them."""

    def lines(folder: Path, indent: str):
        children = sorted(folder.iterdir(), key=lambda path: (path.is_file(), path.name))
        names = [f"{child.name}{'/' if child.is_dir() else ''}" for child in children]
        if len(children) > FILES:  # a directory of frames
            names[2:-1] = [f"... ({len(children) - 3} more)"]
        inside = {f"{child.name}/": child for child in children if child.is_dir()}
        for name in names:
            last = name == names[-1]
            yield f"{indent}{'└── ' if last else '├── '}{name}"
            if name in inside:
                yield from lines(inside[name], indent + ("    " if last else "│   "))

    return "\n".join(["ROOT/", *lines(root, "")])


def _annotations(root: Path):
    for path in sorted(p for p in root.rglob("*") if p.is_file() and p.stat().st_size):
        lines = path.read_text().splitlines()
        shown = [line if len(line) <= WIDTH else f"{line[:WIDTH]} ..." for line in lines[:LINES]]
        more = ["..."] if len(lines) > LINES else []
        yield f"`{path.relative_to(root).as_posix()}`:\n"
        yield "```text\n" + "\n".join(line.rstrip() for line in [*shown, *more]) + "\n```\n"


def _section(build, form: str, *, heading: bool) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        build(root)
        about = inspect.getdoc(build)
        parts = [f"### {build.__name__.replace('_', ' ')}\n"] if heading else []
        parts += [f"{about}\n"] if about else []
        parts += ["```text\n" + tree(root) + "\n```\n", *_annotations(root)]
        read = load_dataset(folder, form)
    return [*parts, f"Classes: {', '.join(code(name) for name in read.classes)}.\n"]


def pages() -> dict[str, str]:
    built = _published().BUILT
    parts = [HEAD]
    level = LOG.level
    LOG.setLevel(logging.ERROR)  # the small data sets lack classes
    for form, row in FORMS.items():
        if builders := [build for build, name in built if name == form]:
            parts += [f"## {form}\n", f"{escaped(row.layout)}\n"]
            parts += [
                part
                for build in builders
                for part in _section(build, form, heading=len(builders) > 1)
            ]
    LOG.setLevel(level)
    return {"forms.md": "\n".join(parts)}
