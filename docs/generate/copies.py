"""Pages that show a Markdown file of the repository."""

from pathlib import Path

from generate.links import relinked

ROOT = Path(__file__).parents[2]
COPIES = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "measurements.md": "benchmarks/RESULTS.md",
    "security.md": "SECURITY.md",
}


def pages() -> dict[str, str]:
    return {
        page: relinked((ROOT / file).read_text(), file, f"docs/reference/{page}")
        for page, file in COPIES.items()
    }
