"""`predict`: class probabilities of videos."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from jaxvideo.cli.shared import (
    add_command,
    add_network,
    add_videos,
    add_views,
    computed_in,
    csv_line,
    open_network,
)
from jaxvideo.types import UsageError

if TYPE_CHECKING:
    from jaxvideo.evaluation.scoring import ClipScores
    from jaxvideo.inference.prediction import Prediction
    from jaxvideo.types import VideoError


def add(commands: Any) -> None:
    command = add_command(
        commands,
        "predict",
        _predict,
        "classify videos",
        "Prints the most probable classes of each video: probability, index and name. A video that "
        "cannot be read is reported and skipped; the exit status is then 1.",
        compiles=True,
    )
    add_videos(command)
    add_network(command)
    add_views(command)
    command.add_argument(
        "--top", type=int, default=5, metavar="N", help="number of classes to print (default: 5)"
    )
    command.add_argument(
        "--timeline",
        action="store_true",
        help="also print the classes of each clip, with its start and end in seconds; --clips sets "
        "their number",
    )
    form = command.add_mutually_exclusive_group()
    form.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object per video; of a video that cannot be read, with the key error",
    )
    form.add_argument(
        "--csv",
        action="store_true",
        help="print a table with one row per video and class; of a video that cannot be read, one "
        "row with the column error",
    )


def _predict(options: argparse.Namespace) -> int:
    import time

    from jaxvideo.data.video import find_videos
    from jaxvideo.evaluation.protocol import describe_protocol
    from jaxvideo.progress import LOG, echo, track

    if options.top < 1:
        raise UsageError(f"--top={options.top}: must be at least 1")
    videos = find_videos(options.videos)
    net = open_network(options)
    asked = {"clips": options.clips, "crops": options.crops}
    protocol = describe_protocol(net.tested(**asked), net.preprocessing, videos) + computed_in(net)
    write = _writer(options, {"model": net.name, "protocol": protocol})
    started, failed = time.perf_counter(), 0
    found = zip(videos, net.predict_each(videos, **asked), strict=True)
    for video, prediction in track(found, "videos", len(videos)):
        if isinstance(prediction, Exception):
            LOG.error(prediction)
            failed += 1
        write(video, prediction)
    seconds = time.perf_counter() - started
    summary = (
        f"{len(videos)} video{'s' * (len(videos) != 1)}, {failed} failed, {seconds:.1f} s, "
        f"{seconds / len(videos):.2f} s per video"
    )
    if options.json or options.csv:
        LOG.info(summary)  # stdout holds records only
    else:
        echo(summary)
    return 1 if failed else 0


def _writer(
    options: argparse.Namespace, about: dict[str, str]
) -> Callable[[str, Prediction | VideoError], None]:
    """Returns the function that prints the prediction of a video, or its error."""
    from jaxvideo.names import escape
    from jaxvideo.progress import echo

    def text(video: str, found: Prediction | VideoError) -> None:
        if isinstance(found, Exception):
            return  # it is in the log
        echo(escape(video))
        digits = len(str(len(found.classes) - 1))
        for entry in _top(found.probabilities, found.classes, options.top):
            echo(f"  {_line(entry, digits)}")
        for clip in found.clips if options.timeline else ():
            entries = _top(clip.scores, found.classes, options.top)
            span = "frames {:>5} - {:>5}".format(*clip.frames)
            if clip.seconds:
                span = "{:8.2f} - {:8.2f} s".format(*clip.seconds)
            for place, entry in enumerate(entries):
                echo(f"  {'' if place else span:{len(span)}}  {_line(entry, digits)}")

    def json_line(video: str, found: Prediction | VideoError) -> None:
        import json

        # Bytes of a name that are not UTF-8 become \udcXX, which `json.loads` restores.
        record: dict[str, Any] = {"video": video}
        if isinstance(found, Exception):
            record["error"] = str(found)
        else:
            record["top"] = _top(found.probabilities, found.classes, options.top)
            if options.timeline:
                record["clips"] = [
                    {
                        **_span(clip),
                        "top": _top(clip.scores, found.classes, options.top),
                    }
                    for clip in found.clips
                ]
        echo(json.dumps({**record, **about}))

    def csv_rows(video: str, found: Prediction | VideoError) -> None:
        name = {"video": escape(video)}
        if isinstance(found, Exception):
            row({**name, "error": str(found)})
            return
        spans = [({}, found.probabilities)]
        spans += [(_span(clip), clip.scores) for clip in found.clips] if options.timeline else []
        for span, probabilities in spans:
            entries = _top(probabilities, found.classes, options.top)
            for rank, entry in enumerate(entries, 1):
                row({**name, **span, "rank": rank, **entry})

    def row(values: dict[str, Any]) -> None:
        echo(csv_line(values.get(column) for column in columns))

    if options.json:
        return json_line
    if options.csv:
        times = ("start", "end", "first_frame", "last_frame") if options.timeline else ()
        columns = ("video", *times, "rank", "index", "class", "probability", "error")
        echo(csv_line(columns))
        return csv_rows
    echo(f"{about['model']}: {about['protocol']}")
    return text


def _top(probabilities: Any, classes: Sequence[str], count: int) -> list[dict[str, Any]]:
    from jaxvideo.inference.prediction import top_classes

    return [
        {"index": i, "class": classes[i], "probability": float(probabilities[i])}
        for i in top_classes(probabilities, count)
    ]


def _line(entry: dict[str, Any], digits: int) -> str:
    return f"{100 * entry['probability']:5.1f} %  {entry['index']:>{digits}}  {entry['class']}"


def _span(clip: ClipScores) -> dict[str, Any]:
    """Returns start and end in seconds, None without a frame rate, and the frames."""
    start, end = clip.seconds or (None, None)
    first, last = clip.frames
    return {"start": start, "end": end, "first_frame": first, "last_frame": last}
