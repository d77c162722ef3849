"""Markdown from values and docstrings."""

import re
import textwrap
from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[str] = ()) -> str:
    """Returns a Markdown table without its empty columns.

    The columns named in `right` are aligned to the right.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    kept = [i for i in range(len(head)) if not cells or any(row[i] for row in cells)]
    rule = ["---:" if name in right else "---" for name in head]
    lines = [[line[i] for i in kept] for line in (head, rule, *cells)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return re.sub(r"\s*\n\s*", " ", text).replace("|", "\\|")


def code(text: object) -> str:
    """Returns inline code, also for text that contains backquotes."""
    text = str(text)
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def count(number: int) -> str:
    """Returns a number for people: `count(31_505_325)` is "31.5 M"."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.{1 if number < 100 * size else 0}f}\N{NO-BREAK SPACE}{unit}"
    return str(number)


def shape(axes: Sequence[int]) -> str:
    """Returns a shape as papers write it, `16 x 112 x 112 x 3`, which is never broken."""
    return "\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}".join(map(str, axes))


def escaped(text: str) -> str:
    """Returns text with Markdown's characters of emphasis escaped, except in inline code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if part.startswith("`") else re.sub(r"([*_<\[\]])", r"\\\1", part) for part in parts
    )


def markdown(docstring: str) -> str:
    """Returns a module's docstring as Markdown: indented blocks become code."""
    blocks = re.split(r"\n\s*\n", textwrap.dedent(docstring).strip("\n"))
    found = []
    for block in blocks:
        if block.startswith("    "):
            found.append(f"```text\n{textwrap.dedent(block).rstrip()}\n```")
        else:
            found.append(linked(escaped(block)))
    return "\n\n".join(found) + "\n"


def linked(text: str) -> str:
    """Returns text in which numbers of arXiv papers are links."""
    return re.sub(r"\b(\d{4}\.\d{4,5})\b", r"[\1](https://arxiv.org/abs/\1)", text)


def entries(docstring: str, section: str = "Attributes") -> dict[str, str]:
    """Returns the entries of a section of a Google docstring, by name.

    An entry `a, b: text` describes both names.
    """
    lines = iter(textwrap.dedent(docstring).splitlines())
    for line in lines:
        if line == f"{section}:":
            break
    found: dict[str, str] = {}
    names: list[str] = []
    for line in lines:
        if line and not line.startswith(" "):
            break
        if entry := re.match(r"  (\(?[\w, ]+\)?): (.*)", line):
            names = [name.strip() for name in entry[1].split(",")]
            found |= dict.fromkeys(names, entry[2])
        elif line.strip():
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found
