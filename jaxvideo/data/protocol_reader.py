"""Read all views of a test protocol, video by video, decoding each video once.

Thirty views of 64 x 224 x 224 take 290 MB, so the clips of a video are read one after the other. A
frame that several clips contain is decoded, cropped and scaled once and kept until the last of
them. Several videos are read in parallel by threads and yielded in order. Equal clips of a short
video are read once.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import threading
from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np

from jaxvideo.data.decode import cut_frames
from jaxvideo.data.loading import Loading
from jaxvideo.data.pipeline import as_stored, read_views
from jaxvideo.data.video import VideoFile
from jaxvideo.data.views import protocol_views
from jaxvideo.types import BLACK, Preprocessing, Protocol, VideoError, View

#: Opens a video by its index in a list, such as `VideoDataset.open`.
Open = Callable[[int], contextlib.AbstractContextManager[VideoFile]]


@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
    """A clip of a test protocol.

    Attributes:
      views: uint8 `[crops, *Preprocessing.transfer_shape]`; RGB if the video is stored as RGB.
      repeats: number of consecutive clips of the protocol that have the same frames, and that this
        one represents; more than 1 only if the video is short.
      frames: indices of the first and of the last frame.
      seconds: time at which the first frame begins and the last one ends; None if the video has no
        frame rate.
    """

    views: np.ndarray
    repeats: int
    frames: tuple[int, int]
    seconds: tuple[float, float] | None


def protocol_clips(
    file: VideoFile, preprocessing: Preprocessing, protocol: Protocol
) -> Iterator[Clip]:
    """Yields the distinct clips of a protocol in order, each with all its crops.

    The views equal those of `pipeline.read_views` for each clip.

    Args:
      file: an open video.
      preprocessing: preprocessing of a test clip, see `Protocol.apply`.
      protocol: the clips and crops.

    Raises:
      VideoError: a frame cannot be decoded, or the stored flow does not exist.
    """
    preprocessing = as_stored(file, preprocessing)
    shape = file.num_frames, file.height, file.width, file.fps
    how = {"times": file.times, "pixel_aspect": file.pixel_aspect}
    equal = itertools.groupby(protocol_views(*shape, preprocessing, protocol, **how))
    clips, repeats = zip(*((views, len(list(same))) for views, same in equal), strict=True)
    pixels = _read_clips(file, clips, preprocessing)
    for views, array, count in zip(clips, pixels, repeats, strict=True):
        shown = set(views[0].frames) - {BLACK}
        first, last = min(shown), max(shown)
        seconds = None
        if file.fps:
            seconds = float(file.times[first]), float(file.times[last]) + 1 / file.fps
        yield Clip(array, count, (first, last), seconds)


def _read_clips(
    file: VideoFile, clips: Sequence[list[View]], preprocessing: Preprocessing
) -> Iterator[np.ndarray]:
    """Yields the crops of each clip: uint8 `[crops, *Preprocessing.transfer_shape]`."""
    # Flow belongs to pairs of frames of one clip, and costs more than decoding.
    if preprocessing.host_flow or not _same_windows(clips):
        for views in clips:
            yield read_views(file, views, preprocessing)
        return
    left = collections.Counter(index for views in clips for index in set(views[0].frames))
    size = preprocessing.crop
    kept = {BLACK: np.zeros((len(clips[0]), *preprocessing.transfer_shape[1:]), np.uint8)}
    wanted = sorted(left.keys() - {BLACK})
    stream = cut_frames(file, wanted, clips[0], size, preprocessing.pixels)
    for views in clips:
        needed = set(views[0].frames)
        while not needed <= kept.keys():
            index, cuts = next(stream)
            kept[index] = np.stack(cuts)
        yield np.stack([kept[index] for index in views[0].frames], axis=1)
        for index in needed - {BLACK}:
            left[index] -= 1
            if not left[index]:
                del kept[index]


def read_tests(
    opening: Open,
    videos: Sequence[int],
    preprocessing: Preprocessing,
    protocol: Protocol,
    *,
    ahead: int,
    loading: Loading = Loading(),
) -> Generator[tuple[int, Clip | VideoError | None]]:
    """Yields every distinct clip of every video in order.

    Closing the generator stops its threads.

    Args:
      opening: opens a video by its index.
      videos: indices of the videos, in the order of reading.
      preprocessing: preprocessing of a test clip, see `Protocol.apply`.
      protocol: the clips and crops.
      ahead: maximum number of views in the queue; each thread may hold one more clip.
      loading: `threads * max(workers, 1)` threads read. There are no worker processes: PyAV and
        OpenCV release the GIL, and a clip from another process would have to be copied.

    Yields:
      (video, clip); (video, VideoError) if the video cannot be read, or not to its end; and
      (video, None) at the end of every video.
    """

    def read(video: int) -> Generator[Clip | VideoError | None]:
        try:
            with opening(video) as file:
                yield from protocol_clips(file, preprocessing, protocol)
        except VideoError as error:
            yield error
        yield None

    threads = loading.threads * max(loading.workers, 1)
    for order, piece in _in_order(read, videos, threads=threads, ahead=ahead):
        yield videos[order], piece


def _in_order(
    read: Callable[[int], Generator], tasks: Sequence[int], *, threads: int, ahead: int
) -> Generator[tuple[int, Clip | VideoError | None]]:
    """Yields (index of the task, piece) in the order of the tasks; None is a task's last piece.

    A thread blocks while `ahead` views are queued, unless its task is next and has nothing queued.
    This bounds memory and cannot deadlock.
    """
    changed = threading.Condition()
    shelves = [collections.deque() for _ in tasks]
    upcoming = iter(range(len(tasks)))
    waiting, turn, closed = 0, 0, False

    def put(order: int, piece: object) -> bool:
        """Queues a piece; returns False if the generator is closed."""
        nonlocal waiting
        with changed:
            changed.wait_for(
                lambda: closed or waiting < ahead or (order == turn and not shelves[order])
            )
            shelves[order].append(piece)
            waiting += _size(piece)
            changed.notify_all()
            return not closed

    def take(order: int):
        nonlocal waiting
        with changed:
            changed.wait_for(lambda: shelves[order])
            piece = shelves[order].popleft()
            waiting -= _size(piece)
            changed.notify_all()
        # A VideoError is a result; any other exception is raised.
        if isinstance(piece, BaseException) and not isinstance(piece, VideoError):
            raise piece
        return piece

    def work() -> None:
        while True:
            with changed:
                order = None if closed else next(upcoming, None)
            if order is None:
                return
            try:
                with contextlib.closing(read(tasks[order])) as pieces:
                    for piece in pieces:
                        if not put(order, piece):
                            return
            except BaseException as error:
                put(order, error)
                return

    readers = [
        threading.Thread(target=work, name=f"test-reader-{i}", daemon=True)
        for i in range(min(threads, len(tasks)))
    ]
    for reader in readers:
        reader.start()
    try:
        for order in range(len(tasks)):
            while True:
                piece = take(order)
                yield order, piece
                if piece is None:
                    break
            with changed:
                turn = order + 1
                changed.notify_all()
    finally:
        with changed:
            closed = True
            changed.notify_all()
        for reader in readers:
            reader.join()


def _size(piece: object) -> int:
    return len(piece.views) if isinstance(piece, Clip) else 0


def _same_windows(clips: Sequence[Sequence[View]]) -> bool:
    shapes = {tuple((view.window, view.mirrored) for view in views) for views in clips}
    return len(shapes) == 1
