"""Video files as people have them, although encoders do not write them by default.

`CASES` maps a file name to a function that writes the file. Frame k of most of them has gray level
`8 k` (mod 256). What a file shows is what FFmpeg decodes in order (`shown`).
"""

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition

from tests.conftest import write_video
from tests.data.broken_videos import boxes

VOP = b"\0\0\1\xb6"
#: P-frame, modulo_time_base 0, 5 bits of time, `vop_coded` 0 (ISO/IEC 14496-2, 6.2.5), padding.
PLACEHOLDER = VOP + bytes([0b01010000, 0b01001111])


def shown(path) -> list[np.ndarray]:
    """Returns all frames that FFmpeg decodes in order, uint8 RGB.

    Packets that it rejects before the first frame are skipped, as by the program `ffmpeg`.
    """
    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.thread_type = "NONE"
        for packet in container.demux(stream):
            if not packet.size and packet.dts is not None:
                continue
            try:
                frames += [frame.to_ndarray(format="rgb24") for frame in packet.decode()]
            except FFmpegError:
                if frames:
                    raise
    return frames


def encode(path, codec, frames=30, *, b_frames=0, gop=12, aspect=None, size=(48, 64), **options):
    """Writes a video with any codec and options of its encoder."""
    with av.open(str(path), "w", format=options.pop("container", None)) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        context = stream.codec_context
        context.gop_size, context.max_b_frames = gop, b_frames
        context.thread_count = 1
        if aspect:
            context.sample_aspect_ratio = aspect
            stream.sample_aspect_ratio = aspect
        for k in range(frames):
            picture = np.full((*size, 3), 8 * k % 256, np.uint8)
            picture[:16, :16] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return Path(path)


def remux(source, path, first=0, last=None, shift=0, change=None, container=None):
    """Copies packets `first` to `last` (exclusive), `shift` frames earlier.

    Packets before frame 0 are then hidden by an edit list, where the container has one.
    `change` maps (index, bytes) to the bytes of the copy; empty bytes drop the packet.
    """
    with av.open(str(source)) as old, av.open(str(path), "w", format=container) as new:
        stream = old.streams.video[0]
        target = new.add_stream_from_template(stream)
        packets = [packet for packet in old.demux(stream) if packet.size]
        frame = round(1 / 25 / stream.time_base)
        for index, packet in enumerate(packets):
            if not first <= index < (len(packets) if last is None else last):
                continue
            data = change(index, bytes(packet)) if change else bytes(packet)
            if not data:
                continue
            copy = av.Packet(data)
            copy.stream, copy.time_base = target, packet.time_base
            copy.dts = packet.dts - shift * frame
            if packet.pts is not None:
                copy.pts = packet.pts - shift * frame
            copy.duration, copy.is_keyframe = packet.duration, packet.is_keyframe
            new.mux(copy)
    return Path(path)


def packed(path, frames=13, filler=PLACEHOLDER):
    """DivX as in HMDB51: a packet of a P-frame and the B-frame before it, then a placeholder."""
    plain = encode(
        path.with_name(f"plain_{path.stem}.avi"),
        "mpeg4",
        frames,
        b_frames=1,
        gop=250,
        # Always I, P, B, P, B ... in the order of the file.
        qmin="1",
        qmax="1",
        b_strategy="0",
        sc_threshold="1000000000",
    )
    with av.open(str(plain)) as container, av.open(str(path), "w", format="avi") as out:
        source = container.streams.video[0]
        first, *others = [bytes(packet) for packet in container.demux(source) if packet.size]
        # Decoders recognize packed bitstreams by the encoder's name in the header.
        start = first.index(VOP)
        chunks = [first[:start] + b"\0\0\1\xb2DivX503b1393p" + first[start:]]
        for predicted, between in zip(others[::2], others[1::2], strict=True):
            chunks += [predicted + between, filler]
        stream = out.add_stream_from_template(source)
        for time, chunk in enumerate(chunks):
            packet = av.Packet(chunk)
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = time
            packet.is_keyframe = time == 0
            out.mux(packet)
    plain.unlink()
    return path


def source(path, **how):
    return write_video(path.with_name(f"source_{path.stem}.mp4"), **{"frames": 60, **how})


def copied(first, last, shift, **how):
    """A cut without re-encoding (`ffmpeg -ss -t -c copy`): an edit list hides the first frames."""

    def make(path):
        made = source(path, **how)
        remux(made, path, first, last, shift)
        made.unlink()
        return path

    return make


def set_edits(path, edits):
    """Replaces the edit list of an MP4 whose index follows its data by (duration, media time)."""
    data = bytearray(path.read_bytes())
    start = next(start for kind, start, _ in boxes(bytes(data)) if kind == "elst")
    old = struct.unpack(">I", data[start : start + 4])[0]
    body = struct.pack(">II", 0, len(edits))
    body += b"".join(struct.pack(">IiI", *edit, 0x10000) for edit in edits)
    grown = len(body) + 8 - old
    for kind, place, _ in list(boxes(bytes(data))):
        if kind in ("moov", "trak", "edts", "elst"):
            length = struct.unpack(">I", data[place : place + 4])[0]
            data[place : place + 4] = struct.pack(">I", length + grown)
    data[start + 8 : start + old] = body
    path.write_bytes(bytes(data))
    return path


def edited(*edits, **how):
    """An MP4 of 40 frames with an edit list; times in milliseconds, media times in 1/12800 s."""
    return lambda path: set_edits(write_video(path, 40, **how), edits)


def late(codec, last=None, container=None, **how):
    """A file that begins between key frames."""

    def make(path):
        # One scene, so that only every twelfth frame is a key frame.
        scene = {"sc_threshold": "1000000000"} if codec == "mpeg4" else {}
        made = encode(path.with_name(f"source_{path.stem}.mp4"), codec, 40, **how, **scene)
        remux(made, path, 5, last, container=container)
        made.unlink()
        return path

    return make


def second_group(codec, **how):
    """A file that begins at the second key frame of a stream with open GOPs."""

    def make(path):
        made = encode(path.with_name(f"source_{path.stem}.mp4"), codec, 40, **how)
        with av.open(str(made)) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
        first = next(i for i, packet in enumerate(packets) if i and packet.is_keyframe)
        remux(made, path, first)
        made.unlink()
        return path

    return make


def bytes_from(share, codec, container, **how):
    """The end of a stream that was cut at any byte, as recorders do."""

    def make(path):
        made = encode(path.with_name(f"source_{path.name}"), codec, container=container, **how)
        data = made.read_bytes()
        path.write_bytes(data[int(share * len(data)) :])
        made.unlink()
        return path

    return make


def gaps(path):
    """An AVI whose encoder dropped two of three frames: empty chunks."""
    return write_video(path, 14, codec="mpeg4", pts=[3 * k for k in range(14)])


def not_coded(path):
    """Dropped frames as placeholders that are coded as "not coded"."""
    made = source(path, codec="mpeg4", frames=20, gop=100)
    remux(made, path, change=lambda k, data: PLACEHOLDER if k in (6, 7, 13) else data)
    made.unlink()
    return path


def two_streams(path):
    """A preview of 20 frames, and the video of 30 frames, which is the default stream."""
    with av.open(str(path), "w") as container:
        streams = []
        for size in (16, 64):
            stream = container.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = size, size, "yuv420p"
            stream.disposition = Disposition.default if size == 64 else Disposition(0)
            streams.append(stream)
        for k in range(30):
            for stream in streams:
                if stream.width == 16 and k >= 20:
                    continue
                rng = np.random.default_rng(k)
                picture = rng.integers(0, 255, (stream.height, stream.width, 3), np.uint8)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    return path


def written(codec, **how):
    return lambda path: encode(path, codec, **how)


def twice(path):
    """Two transport streams in one file: the times begin again."""
    parts = [write_video(path.with_name(f"part{k}.ts"), 8 + k, b_frames=2) for k in range(2)]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    for part in parts:
        part.unlink()
    return path


_HIDDEN = {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "realtime", "b": "20000"}

#: Files by name, and the functions that write them.
CASES: dict[str, Callable[[Path], Path]] = {
    # C1: packed bitstreams
    "packed.avi": packed,
    "packed.divx": packed,
    "packed_hmdb.avi": lambda path: packed(path, 31, b"\x7f"),
    "packed_two.avi": lambda path: packed(path, 3),
    # C2: edit lists
    "copied.mp4": copied(12, 50, 20),
    "copied_b.mp4": copied(12, 52, 20, b_frames=2),
    "copied_all_b.mov": copied(0, 41, 9, b_frames=3),
    "copied_mpeg4.mp4": copied(12, 50, 20, codec="mpeg4"),
    "copied_mpeg4_b.mp4": copied(12, 50, 20, codec="mpeg4", b_frames=2),
    "copied_one_key.mp4": copied(0, None, 30, gop=250, b_frames=2),
    # C3: less is shown than stored
    "ends_early.mp4": edited((800, 0)),
    "ends_early_b.mp4": edited((800, 1024), b_frames=2),
    "starts_late.mp4": edited((1000, 0), (1000, 5120)),
    "two_parts.mp4": edited((400, 0), (400, 12800)),
    "twice.mp4": edited((400, 2048), (400, 2048)),
    "empty_edit.mp4": edited((500, -1), (1600, 0)),
    "gaps.avi": gaps,
    "not_coded.avi": not_coded,
    "not_coded.mp4": not_coded,
    # Between key frames
    "late.mkv": late("libx264"),
    "late_b.mkv": late("libx264", b_frames=2),
    "late.mp4": late("libx264"),
    "late.avi": late("mpeg4"),
    "late.ts": late("libx264", container="mpegts"),
    "late_b.ts": late("libx264", b_frames=2, container="mpegts"),
    "late_mpeg2.ts": late("mpeg2video", b_frames=2, container="mpegts"),
    "recorded.ts": bytes_from(0.3, "libx264", "mpegts", frames=60),
    "recorded_b.MTS": bytes_from(0.45, "libx264", "mpegts", frames=60, b_frames=2),
    "recorded.mpg": bytes_from(0.3, "mpeg2video", "mpeg", frames=60, b_frames=2),
    "open.mkv": second_group("libx264", b_frames=2, **{"x264-params": "open-gop=1"}),
    "open_265.mkv": second_group("libx265", b_frames=2, **{"x265-params": "log-level=none"}),
    "open_mpeg2.mkv": second_group("mpeg2video", b_frames=2),
    # Several streams, pixels that are not square
    "streams.mkv": two_streams,
    "streams.mp4": two_streams,
    "aspect.mp4": written("libx264", aspect=Fraction(64, 45)),
    # Frames that are not packets
    "hidden.webm": written("libvpx", **_HIDDEN),
    "hidden_vp9.webm": written("libvpx-vp9", **_HIDDEN),
    "joined.ts": twice,
    # C6: endings
    "clip.m2ts": written("libx264", b_frames=2, container="mpegts"),
    "clip.3gp": written("libx264", b_frames=2),
    "clip.m2v": written("mpeg2video", b_frames=2),
    "clip.vob": written("mpeg2video", b_frames=2),
    "clip.asf": written("wmv2"),
    "clip.wmv": written("msmpeg4"),
    "clip.flv": written("flv"),
    "clip.h264": written("libx264", b_frames=2),
    "clip.hevc": written("libx265", b_frames=2, **{"x265-params": "log-level=none"}),
    "clip.mjpeg": written("mjpeg"),
    "clip.ogv": written("libvpx"),
    "clip.gif": lambda path: animation(path),
    "clip.f4v": written("libx264", b_frames=2),
}


def animation(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("gif", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "rgb8"
        for k in range(10):
            picture = np.full((48, 64, 3), 8 * k, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="rgb8")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
