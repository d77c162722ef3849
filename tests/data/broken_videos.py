"""Hundreds of tiny videos: damaged ones, and unusual but valid ones.

    python -m tests.data.broken_videos DIR

writes them to a folder, checks each, streams all of them and prints the results as JSON. It runs in
a process of its own, so that a crash or hang of a decoder does not end the test.
"""

import dataclasses
import json
import os
import resource
import signal
import struct
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FRAMES = 12

# Time limit per file; each takes less than 0.1 s. The signal has no Python handler, which could
# not run before the decoder returns: it ends the process.
SECONDS = 10


@dataclasses.dataclass(frozen=True)
class Case:
    """A file, its damage, and the expected result.

    `fate`: "intact": must be ok; "lost": some frames cannot be decoded; "shorter": a complete video
    with fewer frames; "damaged": the result is not known; "unusual": neither is the number of
    frames.
    """

    name: str
    what: str
    fate: str
    frames: int = FRAMES


def write_video(path, codec, *, size=(48, 64), frames=FRAMES, pixels="yuv420p", pts=None, **how):
    """Writes a video of noise, so that its packets contain more than headers."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 60, (*size, 3), dtype=np.uint8)
    options = how.get("options", {})
    with av.open(str(path), "w", format=how.get("format"), options=options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = size
        stream.pix_fmt = pixels
        stream.codec_context.time_base = Fraction(1, 25)
        stream.codec_context.gop_size = 5
        stream.codec_context.max_b_frames = how.get("b_frames", 0)
        stream.codec_context.thread_count = 1
        if how.get("rotation"):
            stream.set_display_rotation(how["rotation"])
        for k in range(frames):
            picture = np.roll(noise, 2 * k, 1) + np.uint8(10 * k)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = pts[k] if pts else k, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return Path(path).read_bytes()


def write_sound(path, codec):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=44100)
        for k in range(4):
            kind = "fltp" if codec == "aac" else "s16"
            samples = np.zeros((1, 1024), np.float32 if codec == "aac" else np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format=kind, layout="mono")
            frame.sample_rate, frame.pts = 44100, 1024 * k
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def boxes(data, start=0, end=None):
    """Yields (kind, start, end) of all boxes of an MP4, outer first (ISO/IEC 14496-12, 4.2)."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        length, kind = struct.unpack(">I4s", data[start : start + 8])
        yield kind.decode("latin-1"), start, start + length
        if kind in (
            b"moov",
            b"trak",
            b"mdia",
            b"minf",
            b"stbl",
            b"dinf",
            b"edts",
            b"moof",
            b"traf",
        ):
            yield from boxes(data, start + 8, start + length)
        start += length


def chunks(data, start=0, end=None):
    """Yields (kind, start, end) of all chunks of an AVI, outer before inner."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        kind, length = struct.unpack("<4sI", data[start : start + 8])
        yield kind.decode("latin-1"), start, start + 8 + length
        if kind in (b"RIFF", b"LIST"):
            yield from chunks(data, start + 12, start + 8 + length)
        start += 8 + length + length % 2


def last_byte(path):
    """Returns the position of the end of the last packet."""
    with av.open(str(path)) as container:
        return max(p.pos + p.size for p in container.demux(video=0) if p.size)


def put(data, kind, offset, value):
    """Writes 4 bytes into the first box of a kind, `offset` bytes after its name."""
    place = next(start for found, start, _ in boxes(data) if found == kind) + 8 + offset
    return data[:place] + struct.pack(">I", value) + data[place + 4 :]


def make(folder):
    """Writes all files and returns their cases."""
    folder = Path(folder)
    cases = []

    def add(name, data, what, fate, frames=FRAMES):
        if data is not None:
            (folder / name).write_bytes(data)
        cases.append(Case(name, what, fate, frames))

    sources = {
        "front.mp4": ("libx264", {"b_frames": 2, "options": {"movflags": "faststart"}}),
        "end.mp4": ("libx264", {"b_frames": 2}),
        "parts.mp4": ("libx264", {"options": {"movflags": "frag_keyframe+empty_moov"}}),
        "xvid.avi": ("mpeg4", {}),
        "bees.avi": ("mpeg4", {"b_frames": 2}),
        "film.mkv": ("libx264", {"b_frames": 2}),
        "web.webm": ("libvpx", {}),
    }
    data, ends = {}, {}
    for name, (codec, how) in sources.items():
        data[name] = write_video(folder / name, codec, **how)
        ends[name] = last_byte(folder / name)
        add(name, None, "nothing", "intact")

    # Truncated at the start and middle of every box or chunk; at 11 positions in other formats.
    places = {name: set() for name in sources}
    for name in ("front.mp4", "end.mp4", "parts.mp4"):
        for _, start, end in boxes(data[name]):
            places[name] |= {start, (start + end) // 2}
    for _, start, end in chunks(data["xvid.avi"]):
        places["xvid.avi"] |= {start, (start + end) // 2}
    for name in ("bees.avi", "film.mkv", "web.webm"):
        places[name] = {len(data[name]) * part // 12 for part in range(1, 12)}
    fragments = {start for kind, start, _ in boxes(data["parts.mp4"]) if kind == "moof"}
    for name, cuts in places.items():
        whole = data[name]
        needed = max([ends[name], *(end for kind, _, end in boxes(whole) if kind == "stbl")])
        for cut in sorted(cuts - {0}):
            fate = "lost" if cut < needed else "damaged"
            if name == "parts.mp4" and cut in fragments - {min(fragments)}:
                fate = "shorter"
            stem, ending = name.split(".")
            add(f"{stem}_cut{cut}.{ending}", whole[:cut], f"cut at byte {cut}", fate)

    # Bytes flipped at random.
    rng = np.random.default_rng(7)
    for name, whole in data.items():
        for turn in range(8):
            flipped = bytearray(whole)
            for place in rng.integers(len(whole), size=2**turn):
                flipped[place] ^= int(rng.integers(1, 256))
            stem, ending = name.split(".")
            add(f"{stem}_flip{turn}.{ending}", bytes(flipped), f"{2**turn} bytes", "damaged")

    # Wrong values in headers. Offsets: ISO/IEC 14496-12, including version and flags if present.
    front, parts = data["front.mp4"], data["parts.mp4"]
    lies = [("stsz", 4, "size"), ("stsz", 8, "count"), ("stts", 4, "entries"), ("stts", 8, "count")]
    lies += [("stts", 12, "time"), ("stsc", 4, "entries"), ("stsc", 12, "samples")]
    lies += [("stco", 4, "entries"), ("stco", 8, "place"), ("ctts", 4, "entries")]
    lies += [("ctts", 8, "count"), ("stss", 4, "entries"), ("mvhd", 16, "duration")]
    lies += [("mdhd", 12, "scale"), ("tkhd", 76, "width"), ("stsd", 4, "entries")]
    for kind, offset, what in lies:
        for value in (2**31 - 1, 2**32 - 1):
            lie = put(front, kind, offset, value)
            # Other times move frames before the start of the presentation, so they are not shown.
            fate = "shorter" if what == "time" else "damaged"
            add(f"lie_{kind}_{what}_{value}.mp4", lie, f"{what} of {kind} is {value}", fate)
    for kind in ("mdat", "moov", "trak"):
        lie = put(front, kind, -8, 2**32 - 1)
        add(f"lie_{kind}.mp4", lie, f"{kind} has 4 GB", "damaged")
    bomb = put(put(front, "stsz", 4, 1), "stsz", 8, 2**24)
    bomb = put(put(bomb, "stsc", 12, 2**24), "stts", 8, 2**24)
    add("bomb_samples.mp4", bomb, "2^24 frames of one byte", "lost")
    bomb = put(put(parts, "trun", 0, 0), "trun", 4, 2**24)
    add("bomb_fragment.mp4", bomb, "2^24 frames in a fragment", "lost")
    # VP8 (RFC 6386, 9.1): 14 bits of width and of height in every key frame.
    huge, mark = data["web.webm"], b"\x9d\x01\x2a"
    huge = mark.join(
        [
            huge.split(mark)[0],
            *(struct.pack("<HH", 16000, 16000) + p[4:] for p in huge.split(mark)[1:]),
        ]
    )
    add("bomb_frame.webm", huge, "frames of 16000 x 16000", "lost")
    # Matroska: a segment of 2^55 bytes; AVI: chunks of 4 GB.
    film, place = data["film.mkv"], data["film.mkv"].index(b"\x18\x53\x80\x67") + 5
    add("lie_segment.mkv", film[:place] + b"\x7f" * 7 + film[place + 7 :], "huge", "damaged")
    for kind, start, _ in list(chunks(data["xvid.avi"]))[:12]:
        lie = bytearray(data["xvid.avi"])
        lie[start + 4 : start + 8] = b"\xff" * 4
        add(f"lie_{start}.avi", bytes(lie), f"{kind.strip()} has 4 GB", "damaged")

    cases += make_unusual(folder)

    # Not videos.
    add("empty.mp4", b"", "zero length", "lost")
    add("text.mp4", b"This is no video.\n" * 50, "text", "lost")
    add("page.mp4", b"<!doctype html><title>404</title>" * 30, "a page of the web", "lost")
    add("noise.avi", rng.integers(256, size=5000, dtype=np.uint8).tobytes(), "noise", "lost")
    add("zeros.mkv", bytes(5000), "zeros", "lost")
    add("head.mp4", front[:8], "a head only", "lost")
    write_sound(folder / "sound.mp4", "aac")
    add("sound.mp4", None, "audio only", "lost")
    write_sound(folder / "sound.avi", "pcm_s16le")
    add("sound.avi", None, "audio only", "lost")

    # Unusual, but valid.
    odd = {
        "one.mp4": ("libx264", {"frames": 1}),
        "one.avi": ("mpeg4", {"frames": 1}),
        "one.mkv": ("libx264", {"frames": 1, "b_frames": 2}),
        "two.mp4": ("libx264", {"frames": 2}),
        "odd.mp4": ("libx264", {"size": (47, 63), "pixels": "yuv444p"}),
        "odd.avi": ("mpeg4", {"size": (47, 63)}),
        "gray.mkv": ("ffv1", {"pixels": "gray"}),
        "lossless.avi": ("ffv1", {"size": (47, 63), "pixels": "bgr0"}),
        "turned90.mp4": ("libx264", {"rotation": 90}),
        "turned180.mp4": ("libx264", {"rotation": 180}),
        "uneven.mp4": ("libx264", {"pts": [k + k // 3 + (k > 7) * 9 for k in range(FRAMES)]}),
        "uneven.mkv": ("libx264", {"pts": [k * k for k in range(FRAMES)], "b_frames": 2}),
        "late.mp4": ("libx264", {"pts": [k + 50 for k in range(FRAMES)]}),
        "bees_h264.avi": ("libx264", {"b_frames": 2}),
        "stream.ts": ("libx264", {"b_frames": 2}),
        "stream.mpg": ("mpeg2video", {"b_frames": 2}),
    }
    for name, (codec, how) in odd.items():
        write_video(folder / name, codec, **how)
        add(name, None, "nothing", "intact", how.get("frames", FRAMES))
    return cases


#: Files of `unusual_videos` that are damaged, too.
UNUSUAL = (
    *("packed.avi", "packed_hmdb.avi", "not_coded.avi", "late.avi", "copied_b.mp4"),
    *("copied_mpeg4_b.mp4", "ends_early_b.mp4", "two_parts.mp4", "late_b.mkv", "open.mkv"),
    *("late_b.ts", "recorded.mpg", "streams.mkv", "hidden.webm", "clip.h264", "clip.gif"),
)


def make_unusual(folder):
    """Writes unusual videos, each cut at six places and with flipped bytes seven times."""
    from tests.data.unusual_videos import CASES

    cases, rng = [], np.random.default_rng(11)
    for name in UNUSUAL:
        whole = CASES[name](folder / name).read_bytes()
        stem, ending = name.split(".")
        damaged = {}
        for part in range(1, 7):
            damaged[f"cut{part}"] = whole[: len(whole) * part // 7]
        for turn in range(7):
            flipped = bytearray(whole)
            for place in rng.integers(len(whole), size=2**turn):
                flipped[place] ^= int(rng.integers(1, 256))
            damaged[f"flip{turn}"] = bytes(flipped)
        cases.append(Case(name, "nothing", "unusual"))
        for what, data in damaged.items():
            (folder / f"{stem}_{what}.{ending}").write_bytes(data)
            cases.append(Case(f"{stem}_{what}.{ending}", what, "unusual"))
    return cases


def played(path):
    """Returns the number of frames that FFmpeg decodes in order; None if it reports any damage.

    It decodes twice: after damage, its MPEG-4 decoder is in another state. Packets that it rejects
    before the first frame are no damage.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.best("video")
            stream.thread_type = "NONE"
            stream.codec_context.options = {"max_pixels": str(2**26)}
            first = decoded_sizes(container, stream)
            try:
                container.seek(0, stream=stream)
            except av.error.FFmpegError:  # no key frame at the beginning
                container.seek(0, unsupported_byte_offset=True)
            sizes = first and decoded_sizes(container, stream)
    except (av.error.FFmpegError, AttributeError):  # no video stream
        return None
    return len(first) if first and sizes == first and len(set(first)) == 1 else None


def decoded_sizes(container, stream):
    """Returns the size of every frame, None if a packet or frame is damaged."""
    sizes = []
    for packet in container.demux(stream):
        if not packet.size and packet.dts is not None:
            continue
        if packet.is_corrupt:
            return None
        try:
            for frame in stream.decode(packet if packet.size else None):
                if frame.is_corrupt:
                    return None
                sizes.append((frame.width, frame.height))
        except av.error.FFmpegError:
            if sizes:
                return None
    return sizes


def opencv_frames(path):
    """Counts frames by OpenCV."""
    import cv2

    video, frames = cv2.VideoCapture(str(path)), 0
    while video.isOpened() and video.read()[0]:
        frames += 1
    return frames


def memory():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def stream(dataset):
    """Returns (video, weight, error, sum of pixels) of every video of the first epoch."""
    from jaxvideo.data.pipeline import error_text, train_batches
    from jaxvideo.types import Preprocessing

    rows = []
    for batch in train_batches(
        dataset,
        Preprocessing(frames=4, stride=2, size=40, crop=32),
        batch_size=8,
        seed=1,
        last_batch=-(-len(dataset) // 8),
    ):
        for sample, weight, error, video in zip(
            batch["sample"], batch["weight"], batch["error"], batch["video"], strict=True
        ):
            epoch, index, _ = (int(number) for number in sample)
            if epoch == 0:
                row = (dataset.paths[index], float(weight), error_text(error), int(video.sum()))
                rows.append(row)
    return rows


def main():
    os.chdir(sys.argv[1])
    cases = make(".")
    from jaxvideo.data import doctor, engines
    from jaxvideo.data.datasets.load import load_dataset

    found, used = {}, []
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, hard))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here, not at the encoders'
    for _ in range(3):
        for case in cases:
            print(case.name, file=sys.stderr, flush=True)  # the last line names the file of a crash
            signal.alarm(SECONDS)
            found[case.name] = doctor.examine(case.name)
        used.append((memory(), descriptors()))
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 2**10
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    unusual = {}
    for case in cases:
        if case.fate == "unusual":
            signal.alarm(SECONDS)
            unusual[case.name] = played(case.name)
    opencv = {}
    for name, record in found.items():
        if record.status == doctor.OK and name not in unusual:
            signal.alarm(SECONDS)
            opencv[name] = opencv_frames(name)

    signal.alarm(12 * SECONDS)
    print("the stream", file=sys.stderr, flush=True)
    Path("train.csv").write_text("".join(f"{case.name},0\n" for case in cases))
    streams = [stream(load_dataset(os.getcwd(), "csv")) for _ in range(2)]
    paths = [case.name for case in cases]
    records = doctor.scan(paths, engines.Engine(workers=2))
    doctor.write_quarantine("quarantine.txt", records, ".")
    result = {
        "cases": [dataclasses.asdict(case) for case in cases],
        "records": [dataclasses.asdict(found[case.name]) for case in cases],
        "threads": [dataclasses.asdict(record) for record in records],
        "opencv": opencv,
        "played": unusual,
        "used": used,
        "peak": peak,
        "streams": streams,
        "healthy": stream(load_dataset(os.getcwd(), "csv")),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
