"""Links to files outside `docs/`: on the site they lead to the page made from that file.

A page in `docs/` links to the source file, which also works where the repository is shown without
the site.
"""

import posixpath
import re

#: Pages by file of the repository, both without the anchor. None: the text stays, the link goes.
PAGES: dict[str, str | None] = {
    "README.md": "docs/index.md",
    "README.md#models": "docs/reference/zoo/index.md",
    "CHANGELOG.md": "docs/reference/changelog.md",
    "CITATION.cff": None,
    "CONTRIBUTING.md": "docs/reference/contributing.md",
    "LICENSE": None,
    "SECURITY.md": "docs/reference/security.md",
    "benchmarks/RESULTS.md": "docs/reference/measurements.md",
    "jaxvideo/__init__.py": "docs/reference/api/index.rst",
    "jaxvideo/cli/__init__.py": "docs/reference/commands.md",
    "jaxvideo/models/registry.py": "docs/reference/zoo/index.md",
    "jaxvideo/training/schema.py": "docs/reference/config.md",
    "jaxvideo/weights/zoo.json": "docs/reference/zoo/weights.md",
    "tests/data/published.py": "docs/reference/forms.md",
}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|mailto:)([^)\s]+)\)")
FENCE = re.compile(r"^(```.*?^```)", flags=re.DOTALL | re.MULTILINE)


def relinked(text: str, origin: str, page: str) -> str:
    """Returns the Markdown of a file with its links as they are from another page.

    Args:
      text: the content of the file.
      origin: the file, relative to the repository.
      page: the page of the site, relative to the repository.
    """

    def changed(link: re.Match) -> str:
        image, label, target = link.groups()
        name, _, anchor = target.partition("#")
        file = posixpath.normpath(posixpath.join(posixpath.dirname(origin), name))
        if not name:
            return link[0]
        if f"{file}#{anchor}" in PAGES:
            to, anchor = PAGES[f"{file}#{anchor}"], ""
        elif file in PAGES:
            to = PAGES[file]
        elif file.startswith("docs/"):
            to = file
        else:
            raise ValueError(
                f"{origin}: no page of the site shows {file}; see docs/generate/links.py"
            )
        if to is None:
            return label
        path = posixpath.relpath(to, posixpath.dirname(page)) + (f"#{anchor}" if anchor else "")
        return f"{image}[{label}]({path})"

    parts = FENCE.split(text)
    return "".join(part if part.startswith("```") else LINK.sub(changed, part) for part in parts)


def rewrite(app, docname: str, source: list[str]) -> None:
    """Changes the links of a page in `docs/` while Sphinx reads it."""
    if not docname.startswith("reference/"):
        source[0] = relinked(source[0], f"docs/{docname}.md", f"docs/{docname}.md")
