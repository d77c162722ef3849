"""Animated WebP, which FFmpeg cannot decode, through Pillow."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxvideo.types import VideoError

#: Bytes of a file that `is_animated_webp` needs.
HEAD = 30

# Maximum number of pixels of a frame, as for other videos.
_MAX_PIXELS = 2**26


def is_animated_webp(head: bytes) -> bool:
    """True if the first `HEAD` bytes of a file are those of an animated WebP."""
    extended = head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X"
    return extended and len(head) >= HEAD and bool(head[20] & 2)


class Animation:
    """The frames of an animated WebP file.

    Attributes:
      times: seconds of every frame from the first, float64 `[T]`.
      height, width: size of the frames.
    """

    def __init__(self, path: str, content: bytes):
        """Decodes the file once for its times.

        Args:
          path: name of the video in error messages.
          content: bytes of the file.

        Raises:
          VideoError: the file is damaged, or its frames have more than 2^26 pixels.
        """
        self._path, self._content = path, content
        self.width, self.height = (
            int.from_bytes(content[place : place + 3], "little") + 1 for place in (24, 27)
        )
        if self.width * self.height > _MAX_PIXELS:
            raise VideoError(
                f"{path}: frames are {self.width} x {self.height}; at most {_MAX_PIXELS} pixels "
                "are supported"
            )
        with self._open() as picture:
            durations = []
            for index in range(picture.n_frames):
                picture.seek(index)
                picture.load()
                durations.append(picture.info.get("duration", 0))
        starts = np.cumsum([0, *durations[:-1]]) / 1000
        self.times = starts if (np.diff(starts) > 0).all() else np.arange(len(durations)) * 1.0

    def read(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (index, uint8 RGB `[H, W, 3]`) for ascending indices."""
        with self._open() as picture:
            for index in wanted:
                picture.seek(index)
                yield index, np.asarray(picture.convert("RGB"))

    @contextlib.contextmanager
    def _open(self) -> Iterator[Any]:
        from PIL import Image  # imported here: few videos need it

        try:
            with Image.open(io.BytesIO(self._content), formats=("WEBP",)) as picture:
                yield picture
        except (OSError, ValueError, EOFError) as error:
            raise VideoError(
                f"{self._path}: cannot be decoded as an animated WebP ({error})"
            ) from error
