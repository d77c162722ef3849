"""Decoded frames of videos in files that are mapped into memory: the formats of `cache`.

Frames are stored as they are decoded, at the size of the video: as planes (`planes.planes_of`), or
as RGB. Cropping and scaling them gives the same bytes as decoding the video again. A clip is read
without copying: the map's pages are shared by all processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import mmap
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter

from jaxvideo.data import tables
from jaxvideo.data.decode import decode_frames, native_frames
from jaxvideo.data.planes import Planes, planes_of, shapes_of
from jaxvideo.data.probe import FrameTable
from jaxvideo.data.video import VideoFile
from jaxvideo.types import VideoError

# Version of the files on disk. Decoders may change with PyAV's and FFmpeg's versions.
_FORMAT = [1, av.__version__, *map(list, av.library_versions.values())]


@dataclasses.dataclass(frozen=True)
class Form:
    """How the frames of a video are stored.

    Attributes:
      frames: number of frames.
      shapes: shapes of the arrays of a frame: its planes, or RGB.
      bits: bits of a value, 8 to 16; uint8 if 8, otherwise uint16.
      planar: True if the arrays are planes.
    """

    frames: int
    shapes: tuple[tuple[int, ...], ...]
    bits: int = 8
    planar: bool = False

    @property
    def dtype(self) -> type[np.generic]:
        """Dtype of a value."""
        return np.uint8 if self.bits == 8 else np.uint16

    @property
    def values(self) -> int:
        """Number of values of a frame."""
        return sum(map(math.prod, self.shapes))

    @property
    def size(self) -> int:
        """Number of bytes of all frames."""
        return self.frames * self.values * np.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class Stored:
    """The frames of one video in a file.

    Attributes:
      path: the file.
      offset: first byte of the frames, a multiple of `mmap.ALLOCATIONGRANULARITY`.
      form: how they are stored.
      matrices: for each frame the row of `colors.MATRICES`; empty if frames are RGB.
      record: the encoded frame table.
      stamp: size and modification time of the video; None if it is not a file.
    """

    path: str
    offset: int
    form: Form
    matrices: bytes
    record: bytes
    stamp: tables.Stamp | None


def form_of(file: VideoFile, pixels: str) -> Form:
    """Returns how the frames of an open video are stored.

    Args:
      file: the video.
      pixels: "yuv" or "rgb", see `Preprocessing.pixels`.
    """
    height, width = file.height, file.width
    if pixels == "rgb" or not file.planar:
        return Form(file.num_frames, ((height, width, 3),))
    shapes, bits = shapes_of(file.pixel_format, height, width, file.rotation)
    return Form(file.num_frames, shapes, bits, True)


def store(
    file: VideoFile,
    form: Form,
    path: str,
    offset: int,
    stamp: tables.Stamp | None,
    write: Callable[[np.ndarray], Any],
) -> Stored:
    """Decodes all frames of an open video.

    Args:
      file: the video.
      form: see `form_of`.
      path, offset, stamp: see `Stored`.
      write: receives each array of each frame in order, contiguous.

    Raises:
      VideoError: the video is damaged, a frame cannot be decoded, or the frames have several forms.
    """
    if file.damaged:
        raise VideoError(f"{file.path}: is damaged")
    matrices = bytearray()
    for frame in _decoded(file, form):
        arrays = (frame,)
        if isinstance(frame, Planes):
            arrays = tuple(frame.planes)
            matrices.append(frame.kind)
        found = tuple(array.shape for array in arrays)
        if found != form.shapes or arrays[0].dtype != form.dtype or _bits(frame) != form.bits:
            raise VideoError(f"{file.path}: its frames have several pixel formats")
        for array in arrays:
            write(np.ascontiguousarray(array))
    table = FrameTable(**{f.name: getattr(file, f.name) for f in dataclasses.fields(FrameTable)})
    record = tables.encode(table, stamp or (0, 0))
    return Stored(path, offset, form, bytes(matrices), record, stamp)


@contextlib.contextmanager
def open_stored(stored: Stored, name: str) -> Iterator[VideoFile]:
    """Opens stored frames as a video.

    Args:
      stored: the frames.
      name: name of the video in error messages.

    Raises:
      OSError: the file does not exist any more.
    """
    form = stored.form
    with open(stored.path, "rb") as file:
        content = mmap.mmap(file.fileno(), form.size, offset=stored.offset, access=mmap.ACCESS_READ)
    frames = np.frombuffer(content, form.dtype).reshape(form.frames, form.values)
    ends = itertools.accumulate(map(math.prod, form.shapes))
    arrays = [
        frames[:, end - math.prod(shape) : end].reshape(-1, *shape)
        for end, shape in zip(ends, form.shapes, strict=True)
    ]

    def read(wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
        if not form.planar:
            yield from ((index, arrays[0][index]) for index in wanted)
            return
        for index in wanted:
            own = tuple(array[index] for array in arrays)
            yield index, Planes(own, stored.matrices[index], form.bits)

    table = tables.decode(stored.record)
    assert table
    yield VideoFile(path=name, reader=read, **vars(table))


def _decoded(file: VideoFile, form: Form) -> Iterator[Planes | np.ndarray]:
    wanted = range(file.num_frames)
    if not form.planar:
        yield from (frame for _, frame in decode_frames(file, wanted))
        return
    reformatter = VideoReformatter()
    for index, frame in native_frames(file, wanted):
        try:
            yield planes_of(frame, reformatter)
        except FFmpegError as error:
            raise VideoError(f"{file.path}: frame {index} cannot be converted") from error


def _bits(frame: Planes | np.ndarray) -> int:
    return frame.bits if isinstance(frame, Planes) else 8


# --- A file on disk ---------------------------------------------------------------------------
#
# The frames, a JSON object, and the length of the object in four bytes. The end is written last,
# so that a truncated file is recognized.


def write_end(file: Any, stored: Stored) -> None:
    """Writes what follows the frames of a file, which contains one video."""
    fields = dataclasses.asdict(stored)
    fields |= {"matrices": stored.matrices.hex(), "record": stored.record.hex()}
    del fields["path"]
    end = json.dumps({"format": _FORMAT, **fields}).encode()
    file.write(end + struct.pack("<I", len(end)))


def read_end(path: str, form: Form, stamp: tables.Stamp | None) -> Stored | None:
    """Returns the frames in a file; None if it does not contain these of this video."""
    try:
        with open(path, "rb") as file:
            file.seek(form.size)
            end = file.read()
        (length,) = struct.unpack("<I", end[-4:])
        fields = json.loads(end[:-4])
        if length != len(end) - 4 or fields.pop("format") != _FORMAT:
            return None
        shapes = tuple(map(tuple, fields["form"].pop("shapes")))
        found = Stored(
            path=path,
            offset=fields["offset"],
            form=Form(shapes=shapes, **fields["form"]),
            matrices=bytes.fromhex(fields["matrices"]),
            record=bytes.fromhex(fields["record"]),
            stamp=tuple(fields["stamp"]),
        )
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None
    return found if (found.form, found.stamp) == (form, stamp) else None
