"""`models`: the table of all networks."""

from __future__ import annotations

import argparse
from typing import Any

from jaxvideo.cli.shared import add_command


def add(commands: Any) -> None:
    add_command(
        commands,
        "models",
        _models,
        "list all networks",
        "Columns: number of parameters, multiply-adds of one clip in 10^9, clip shape "
        "(frames x height x width x channels), endpoints, paper, and libraries whose weights can "
        "be read.",
        compiles=True,
    )


def _models(options: argparse.Namespace) -> int:
    del options
    from jaxvideo.models import MODELS
    from jaxvideo.models.summary import summarize
    from jaxvideo.pretrained import sources_of
    from jaxvideo.progress import echo

    wide = max(map(len, MODELS)) + 1
    echo(
        f"{'name':<{wide}}{'parameters':>12}{'GMACs':>9}  {'input':<16}{'endpoints':<28}"
        f"{'source':<18}weights from"
    )
    for name, entry in MODELS.items():
        s = summarize(name)
        ends = list(s.endpoints)
        echo(
            f"{name:<{wide}}{s.parameters:>12,}{s.macs / 1e9:>9.3f}  "
            f"{'x'.join(map(str, s.input_shape)):<16}"
            f"{f'{ends[0]} ... {ends[-2]} ({len(ends)})':<28}"
            f"{entry.source:<18}{', '.join(sources_of(name)) or '-'}"
        )
    return 0
