"""All views of a test protocol, video by video; each video is opened and decoded once.

Thirty views of 64 x 224 x 224 are 290 MB, so a video's clips are read one after the other. They
share what they have in common: a frame is decoded, cropped and scaled once and kept until the
last clip that shows it is read. Several videos are read at the same time, by threads, and come
out in order, whatever thread was first.
"""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np

from jaxvideo.data.datasets import VideoDataset
from jaxvideo.data.decode import VideoFile, cut, decode_frames
from jaxvideo.data.pipeline import Loading, read_views
from jaxvideo.data.views import protocol_views
from jaxvideo.types import BLACK, Preprocessing, Protocol, VideoError, View


def protocol_clips(
    file: VideoFile, preprocessing: Preprocessing, protocol: Protocol
) -> Iterator[np.ndarray]:
    """The clips of a protocol, in order, each with all its crops: uint8 `[crops, T, H, W, C]`.

    The same bytes as `pipeline.read_views` gives clip by clip. `preprocessing` is that of a test
    clip, `Protocol.apply`.

    Raises:
      VideoError: a frame cannot be decoded, or there is no stored flow.
    """
    shape = file.num_frames, file.height, file.width, file.fps
    clips = protocol_views(*shape, preprocessing, protocol, times=file.times)
    # Flow made on the host belongs to the pairs of a clip, and costs more than decoding.
    if preprocessing.host_flow or not _same_windows(clips):
        for views in clips:
            yield read_views(file, views, preprocessing)
        return
    left = collections.Counter(index for views in clips for index in set(views[0].frames))
    size = preprocessing.crop
    kept = {BLACK: np.zeros((len(clips[0]), size, size, 3), np.uint8)}
    stream = decode_frames(file, sorted(left.keys() - {BLACK}))
    for views in clips:
        needed = set(views[0].frames)
        while not needed <= kept.keys():
            index, frame = next(stream)
            kept[index] = np.stack([cut(frame, view, size) for view in views])
        yield np.stack([kept[index] for index in views[0].frames], axis=1)
        for index in needed - {BLACK}:
            left[index] -= 1
            if not left[index]:
                del kept[index]


def read_tests(
    dataset: VideoDataset,
    videos: Sequence[int],
    preprocessing: Preprocessing,
    protocol: Protocol,
    *,
    ahead: int,
    loading: Loading = Loading(),
) -> Generator[tuple[int, np.ndarray | VideoError | None]]:
    """Every clip of every video: `(video, uint8 [crops, T, H, W, C])`, in order.

    Where a video cannot be read, or not to its end, its VideoError stands in the place of a clip;
    None ends every video. Closing the generator stops its threads.

    Args:
      videos: indices into the data set.
      ahead: views that may wait to be taken; each thread may hold one clip more.
      loading: `threads` of them read, for each of `workers` if there are any: PyAV and OpenCV
        release Python's lock, and a video read in another process would have to be copied.
    """

    def read(video: int) -> Generator[np.ndarray | VideoError | None]:
        try:
            with dataset.open(video) as file:
                yield from protocol_clips(file, preprocessing, protocol)
        except VideoError as error:
            yield error
        yield None

    threads = loading.threads * max(loading.workers, 1)
    for order, piece in _in_order(read, videos, threads=threads, ahead=ahead):
        yield videos[order], piece


def _in_order(
    read: Callable[[int], Generator], tasks: Sequence[int], *, threads: int, ahead: int
) -> Generator[tuple[int, np.ndarray | VideoError | None]]:
    """`(place of the task, piece)` of all tasks' pieces, in order; None is a task's last one.

    A thread waits while `ahead` views wait, unless it is its task's turn and none of this one's
    wait: so memory is bounded, and nobody waits for ever.
    """
    changed = threading.Condition()
    shelves = [collections.deque() for _ in tasks]
    upcoming = iter(range(len(tasks)))
    waiting, turn, closed = 0, 0, False

    def put(order: int, piece: object) -> bool:
        """Whether the piece is wanted still."""
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
        # An error of a video is a piece; any other one is a fault.
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
    return len(piece) if isinstance(piece, np.ndarray) else 0


def _same_windows(clips: Sequence[Sequence[View]]) -> bool:
    shapes = {tuple((view.window, view.mirrored) for view in views) for views in clips}
    return len(shapes) == 1
