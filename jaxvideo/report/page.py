"""Self-contained HTML page: embedded style and pictures, no scripts, no requests."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

from jaxvideo.names import one_line

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --accent: #2a78d6; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: left; }
td.number, th.number { text-align: right; }
code { background: var(--soft); padding: 0 .25em; border-radius: 3px; }
figure { display: inline-block; margin: .5rem; vertical-align: top; max-width: 14rem; }
figcaption { font-size: 12px; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
"""


def page(title: str, body: str) -> str:
    """Builds a document.

    Args:
      title: plain text.
      body: HTML.
    """
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n<body><h1>{text(title)}</h1>\n{body}\n</body></html>\n"
    )


def text(value: object) -> str:
    """Escapes a value for HTML, and bytes that are not UTF-8 and line breaks as `names` does.

    Example:
      >>> text("a < b")
      'a &lt; b'
    """
    return html.escape(one_line(str(value)))


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Builds a table with right-aligned numbers. Cells are escaped unless they are `Markup`."""

    def cell(tag: str, value: object) -> str:
        right = ' class="number"' if isinstance(value, int | float) else ""
        inner = value if isinstance(value, Markup) else text(value)
        return f"<{tag}{right}>{inner}</{tag}>"

    lines = ["<tr>" + "".join(cell("th", head) for head in heads) + "</tr>"]
    lines += ["<tr>" + "".join(cell("td", value) for value in row) + "</tr>" for row in rows]
    return '<div class="scroll"><table>\n' + "\n".join(lines) + "\n</table></div>"


class Markup(str):
    """HTML that `table` does not escape."""


def picture(data: bytes, mime: str, caption: str = "", width: int | None = None) -> str:
    """Embeds an image.

    Args:
      data: content of a PNG, WebP or GIF file.
      mime: its MIME type.
      caption: plain text.
      width: width in pixels; None: that of the image.
    """
    sized = f' width="{width}"' if width else ""
    encoded = base64.b64encode(data).decode("ascii")
    return (
        f'<figure><img alt="{text(caption)}"{sized} src="data:{mime};base64,{encoded}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )
