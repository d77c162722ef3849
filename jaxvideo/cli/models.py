"""`models`: the table of all networks."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> None:
    models = commands.add_parser("models", help="table of all networks")
    models.set_defaults(run=_models, compiles=True)


def _models(options: argparse.Namespace) -> int:
    del options
    from jaxvideo.models import MODELS
    from jaxvideo.models.summary import summarize
    from jaxvideo.pretrained import sources_of

    wide = max(map(len, MODELS)) + 1
    print(
        f"{'name':<{wide}}{'parameters':>12}{'GMACs':>9}  {'input':<16}{'endpoints':<28}"
        f"{'source':<18}weights from"
    )
    for name, entry in MODELS.items():
        s = summarize(name)
        ends = list(s.endpoints)
        print(
            f"{name:<{wide}}{s.parameters:>12,}{s.macs / 1e9:>9.3f}  "
            f"{'x'.join(map(str, s.input_shape)):<16}"
            f"{f'{ends[0]} ... {ends[-2]} ({len(ends)})':<28}"
            f"{entry.source:<18}{', '.join(sources_of(name)) or '-'}",
            flush=True,
        )
    return 0
