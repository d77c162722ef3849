"""Encode frames as an mp4 file with reproducible bytes."""

from __future__ import annotations

import contextlib
import functools
import io

import av
import cv2
import numpy as np

from jaxvideo.data.motion.spec import FPS
from jaxvideo.types import DataError


def encode(frames: np.ndarray, codec: str | None = None) -> bytes:
    """Encodes frames as an mp4 file.

    Uses one encoder thread: with several, x264's rate control, and hence the bytes, depend on
    timing.

    Args:
      frames: uint8 RGB `[T, H, W, 3]`, H and W even.
      codec: "libx264" or "mpeg4". Default: the first of them that this PyAV has (an FFmpeg build
        under the LGPL lacks libx264).

    Returns:
      The bytes of the file.

    Raises:
      DataError: PyAV has neither codec.
    """
    codec = codec or find_codec()
    num_frames, height, width, _ = frames.shape
    # GOP 12 without B-frames: a short video then has several key frames to seek to, as in UCF101.
    options = {"g": "12", "bf": "0"}
    if codec == "libx264":
        options |= {"preset": "veryfast", "crf": "25", "sc_threshold": "0"}
        # With its macroblock tree, x264 165 produces different bytes in one run of a hundred at
        # 112 x 84 (not at 128 x 96), even with one thread; without it, all runs agree.
        options["mbtree"] = "0"
    else:
        options |= {"flags": "+qscale", "global_quality": str(5 * 118)}  # FF_QP2LAMBDA
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=FPS, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_count = 1
        for index in range(num_frames):
            planes = cv2.cvtColor(frames[index], cv2.COLOR_RGB2YUV_I420)
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


@functools.cache
def find_codec() -> str:
    """Returns the name of the codec that `encode` uses by default.

    Raises:
      DataError: PyAV has neither libx264 nor mpeg4.
    """
    for name in ("libx264", "mpeg4"):
        with contextlib.suppress(av.codec.codec.UnknownCodecError):
            return av.codec.Codec(name, "w").name
    raise DataError("PyAV has neither the codec libx264 nor mpeg4: pip install av")
