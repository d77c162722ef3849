"""Changes docstrings into what Sphinx's napoleon reads.

Docstrings follow the Google format and have Markdown's inline code and tables. Examples are
programs without a prompt, or sessions with `>>>`. Blocks that are indented by four are literal.
"""

import re
from collections.abc import Iterator

SECTION = re.compile(r"(Args|Attributes|Example|Raises|Returns|Warns|Yields)( of [\w ]+)?:$")


def prepare(app, what, name, obj, options, lines: list[str]) -> None:
    """Changes the lines of a docstring in place."""
    lines[:] = list(_converted(lines))
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]  # otherwise napoleon takes "word: text" for a type


def _converted(lines: list[str]) -> Iterator[str]:
    section, at = "", 0
    while at < len(lines):
        line = lines[at]
        end = at + 1
        if found := SECTION.match(line):
            section = found[1]
        elif line and not line.startswith(" "):
            section = ""
        if section == "Example" and found:
            end = _end(lines, end, lambda line: not line or line.startswith("  "))
            yield from _example(lines[at + 1 : end])
        elif line.startswith("|") and end < len(lines) and set(lines[end]) <= set("|-: "):
            end = _end(lines, end, lambda line: line.startswith("|"))
            yield from _table(lines[at:end])
        elif line.startswith("    ") and not section:
            end = _end(lines, end, lambda line: not line or line.startswith("    "))
            yield from ("::", "", *lines[at:end], "")
        else:
            yield _escaped(line)
        at = end


def _end(lines: list[str], start: int, belongs) -> int:
    """Returns the index behind the last of the lines that belong together."""
    while start < len(lines) and belongs(lines[start]):
        start += 1
    return start


def _example(body: list[str]) -> list[str]:
    language = "pycon" if any(">>>" in line for line in body) else "python"
    indented = [f"  {line}" if line else "" for line in body]
    return [".. rubric:: Example", "", f".. code-block:: {language}", "", *indented, ""]


def _table(lines: list[str]) -> list[str]:
    head, _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    found = [".. list-table::", "   :header-rows: 1", ""]
    for row in (head, *body):
        for number, cell in enumerate(row):
            found.append(f"   {'* -' if not number else '  -'} {_escaped(cell)}".rstrip())
    return [*found, ""]


def _escaped(line: str) -> str:
    """Escapes what reStructuredText reads as markup, except inline code and emphasis."""
    parts = re.split(r"(`[^`]*`|(?<!\S)\*\w[^*]*\w\*(?!\w))", line)
    for number in range(0, len(parts), 2):
        parts[number] = re.sub(r"([*|]|(?<=\w)_(?!\w))", r"\\\1", parts[number])
    return "".join(parts)
