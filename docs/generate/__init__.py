"""Pages that are generated from the code at the start of every build of the documentation."""

from pathlib import Path

from generate import api, commands, config, copies, forms, zoo


def pages() -> dict[str, str]:
    """Returns the text of every generated page by its path below `docs/reference/`."""
    found: dict[str, str] = {}
    for part in (zoo, config, commands, forms, api, copies):
        found |= part.pages()
    return found


def write_pages(folder: Path) -> None:
    """Writes the pages that changed, and removes those that are no longer generated."""
    wanted = {folder / name: text for name, text in pages().items()}
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        if path not in wanted:
            path.unlink()
    for path, text in wanted.items():
        # An unchanged file keeps its time, so that Sphinx does not read it again.
        if not path.is_file() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
