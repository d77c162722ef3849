"""Measures loader throughput per core, in total and by stage, and compares it with torch.

    python benchmarks/loader.py [--video CLIP.mp4] [--rounds 5] [--accelerator 800]

Needs torch (extra [torch]). If torchcodec is installed, it is compared too; it needs FFmpeg's
shared libraries, and 0.13 is the last version for torch without CUDA. First, videos of about ten
seconds are written from moving photographs or from `--video`: mp4 (H.264, 340 x 256, x264's
defaults: a key frame every 250 frames, B-frames) and avi (XviD, 320 x 240, a key frame every 12).
Each is also packed (`python -m jaxvideo pack`, short side 128).

All loaders do the same work: open the file of a random video, decode a random clip, scale frames to
128 x 171, crop 112 x 112 at random, and batch 16 clips of uint8. Compared loaders:

    torch + PyAV        seeks by time and decodes from there, as torchvision's reader does
    torch + torchcodec  its approximate mode, which seeks by frame number and rate
    no index            jaxvideo without the frame tables that it keeps (loading.index=false)
    files               jaxvideo's default: tables are known from the second time on
    cached              decoded frames in memory (loading.cache="ram"), without filling the cache

Times are CPU times of all threads of the process, which depend little on other load. They are
medians over rounds in which every loader runs once. Ratios above 1 mean that jaxvideo is faster.
"""

import argparse
import contextlib
import functools
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import av
import cv2
import jax
import numpy as np
import torch
from av.video.reformatter import VideoReformatter

from jaxvideo.data.cache import cache_frames, indexed
from jaxvideo.data.datasets.dataset import VideoDataset
from jaxvideo.data.decode import native_frames, read_frames
from jaxvideo.data.loading import Loading
from jaxvideo.data.pipeline import train_batches
from jaxvideo.data.planes import cut_planes
from jaxvideo.data.video import open_video
from jaxvideo.data.views import random_view
from jaxvideo.types import Preprocessing

HEIGHT, WIDTH, CROP, BATCH = 128, 171, 112, 16
FORMS = {"mp4": ("libx264", 340, 256), "avi": ("mpeg4", 320, 240)}
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")


# The videos.


def photograph_frames(name: str, width: int, height: int, count: int = 300):
    """Renders a camera that pans and shakes over a photograph, with a moving patch of another."""
    import importlib.util

    folder = Path(importlib.util.find_spec("skimage").origin).parent / "data"
    rng = np.random.default_rng(len(name))
    pictures = [cv2.imread(str(folder / f"{n}.{e}")) for n in (name, "hubble_deep_field")
                for e in ("png", "jpg") if (folder / f"{n}.{e}").exists()]  # fmt: skip
    far, near = (cv2.cvtColor(picture, cv2.COLOR_BGR2RGB) for picture in pictures[:2])
    far = cv2.resize(far, (2 * width, 2 * height), interpolation=cv2.INTER_AREA)
    near = cv2.resize(near, (width // 4, height // 3), interpolation=cv2.INTER_AREA)
    for t in range(count):
        x = int(width / 2 * (1 + 0.9 * np.sin(t / 40)) + rng.normal(0, 0.7))
        y = int(height / 2 * (1 + 0.7 * np.cos(t / 31)) + rng.normal(0, 0.7))
        frame = far[max(y, 0) :, max(x, 0) :][:height, :width].copy()
        left = int((t * 2.7) % (width - near.shape[1]))
        top = int(height / 3 * (1 + 0.6 * np.sin(t / 9)))
        frame[top : top + near.shape[0], left : left + near.shape[1]] = near
        noise = rng.normal(0, 3, (height, width, 1))
        yield np.clip(frame + noise, 0, 255).astype(np.uint8)


def clip_frames(path: str, width: int, height: int):
    with open_video(path) as video:
        yield from read_frames(video, 0, min(video.num_frames, 300), height, width)


def write_video(path: Path, frames, codec: str, width: int, height: int) -> None:
    with av.open(str(path), "w") as container:
        options = {} if codec == "libx264" else {"g": "12", "bf": "0", "qmin": "4", "qmax": "6"}
        stream = container.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def make_videos(folder: Path, form: str, source: str | None) -> VideoDataset:
    codec, width, height = FORMS[form]
    paths = []
    for number, name in enumerate(PHOTOGRAPHS):
        path = folder / form / f"{number}.{form}"
        path.parent.mkdir(exist_ok=True)
        if source is None:
            write_video(path, photograph_frames(name, width, height), codec, width, height)
        elif form == "mp4":
            path.write_bytes(Path(source).read_bytes())
        else:
            write_video(path, clip_frames(source, width, height), codec, width, height)
        paths.append(str(path))
    return VideoDataset(tuple(paths), tuple(i % 2 for i in range(len(paths))), ("a", "b"))


def packed(dataset: VideoDataset, folder: Path, form: str):
    from jaxvideo.data.packed.read import load_packed
    from jaxvideo.data.packed.record import Packing
    from jaxvideo.data.packed.write import pack

    pack({"train": dataset}, folder, Packing(format=form))
    return load_packed(folder, "train")


# The compared loaders.


def scaled_crop(clip: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Scales and crops uint8 `[T, H, W, C]` to `[T, C, 112, 112]`."""
    # Like torchvision's `resize`: on uint8 with channels last in memory, torch's fastest way.
    clip = torch.nn.functional.interpolate(
        clip.permute(0, 3, 1, 2), (HEIGHT, WIDTH), mode="bilinear", antialias=False
    )
    top, left = (int(torch.randint(n - CROP + 1, (), generator=generator)) for n in (HEIGHT, WIDTH))
    return clip[..., top : top + CROP, left : left + CROP].contiguous()


class PyavClips(torch.utils.data.Dataset):
    """Random clips; frames are found by their presentation times."""

    def __init__(self, dataset: VideoDataset, frames: int, clips: int, seed: int):
        self.dataset, self.frames, self.clips, self.seed = dataset, frames, clips, seed

    def __len__(self) -> int:
        return self.clips

    def generator(self, index: int) -> torch.Generator:
        return torch.Generator().manual_seed(1_000_000 * self.seed + index)

    def __getitem__(self, index: int):
        generator = self.generator(index)
        video = int(torch.randint(len(self.dataset), (), generator=generator))
        with av.open(self.dataset.paths[video], metadata_errors="replace") as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            rate = float(stream.average_rate)
            last = stream.frames - self.frames
            start = int(torch.randint(last + 1, (), generator=generator))
            pts = round((start - 0.5) / rate / stream.time_base) + (stream.start_time or 0)
            container.seek(max(pts, 0), stream=stream, backward=True)
            pictures = []
            for frame in container.decode(stream):
                if frame.pts >= pts:
                    pictures.append(torch.from_numpy(frame.to_ndarray(format="rgb24")))
                if len(pictures) == self.frames:
                    break
        return scaled_crop(torch.stack(pictures), generator), self.dataset.labels[video]


class TorchcodecClips(PyavClips):
    def __getitem__(self, index: int):
        from torchcodec.decoders import VideoDecoder

        generator = self.generator(index)
        video = int(torch.randint(len(self.dataset), (), generator=generator))
        decoder = VideoDecoder(
            self.dataset.paths[video],
            seek_mode="approximate",
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
        )
        last = decoder.metadata.num_frames - self.frames
        start = int(torch.randint(last + 1, (), generator=generator))
        clip = decoder.get_frames_in_range(start, start + self.frames).data
        return scaled_crop(clip, generator), self.dataset.labels[video]


def peer(clips, dataset: VideoDataset, frames: int):
    def turn(batches: int, seed: int) -> None:
        source = clips(dataset, frames, batches * BATCH, seed)
        for video, _ in torch.utils.data.DataLoader(source, batch_size=BATCH, num_workers=0):
            assert video.shape == (BATCH, frames, 3, CROP, CROP)

    return turn


# jaxvideo's loader.


def preprocessing(frames: int) -> Preprocessing:
    return Preprocessing(frames=frames, size=HEIGHT, width=WIDTH, crop=CROP)


def ours(dataset: VideoDataset, frames: int, index: bool = True):
    def turn(batches: int, seed: int) -> None:
        # Exactly this many, so that nothing is prefetched while another loader runs.
        stream = train_batches(
            dataset,
            preprocessing(frames),
            batch_size=BATCH,
            seed=seed,
            last_batch=batches,
            loading=Loading(threads=1, index=index),
        )
        with contextlib.closing(stream):
            for batch in stream:
                assert batch["weight"].all(), batch["error"]

    return turn


def stages(dataset: VideoDataset, frames: int) -> dict[str, float]:
    """Measures the CPU time of each stage alone, in ms per clip."""
    rng = np.random.default_rng(0)
    picks = [int(i) for i in rng.integers(len(dataset), size=8)]
    decoded, places = [], []

    def read():
        for video in picks:
            if os.path.exists(dataset.paths[video]):
                Path(dataset.paths[video]).read_bytes()
            else:
                _ = dataset.source[dataset.places[video]]

    def open_():
        for video in picks:
            with dataset.open(video):
                pass

    def decode():
        decoded.clear()
        for video in picks:
            with dataset.open(video) as file:
                shape = file.num_frames, file.height, file.width, file.fps
                view = random_view(*shape, preprocessing(frames), rng)
                pictures = [picture for _, picture in native_frames(file, view.frames)]
            decoded.append((view, pictures))

    def crop():
        places.clear()
        reformatter = VideoReformatter()
        for view, pictures in decoded:
            cuts = [cut_planes(picture, view, CROP, reformatter) for picture in pictures]
            places.append(np.stack(cuts))

    def batch():
        np.stack(places)

    def transfer():
        jax.block_until_ready(jax.device_put(np.stack(places)))

    spent = {}
    for name, stage in {
        "read": read,
        "open": open_,
        "seek + decode": decode,
        "crop + scale": crop,
        "batch": batch,
        "transfer": transfer,
    }.items():
        stage()
        spent[name] = 1e3 * float(np.median([cpu_seconds(stage) for _ in range(5)])) / len(picks)
    # These two stages include the previous ones.
    spent["seek + decode"] -= spent["open"]
    spent["transfer"] -= spent["batch"]
    return {name: max(ms, 0.0) for name, ms in spent.items()}


# Measurement.


def cpu_seconds(work) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def in_turns(contenders, rounds: int, seconds: float = 2.0) -> dict[str, float]:
    """Measures clips per second and core of each loader: medians over rounds of one run each."""
    batches = {}
    for name, turn in contenders.items():
        turn(1, 0)  # imports and first allocations
        used = cpu_seconds(functools.partial(turn, 1, 0))
        batches[name] = max(round(seconds / used), 1)
    rates = {name: [] for name in contenders}
    for seed in range(rounds):  # other clips in each round
        for name, turn in contenders.items():
            used = cpu_seconds(functools.partial(turn, batches[name], seed))
            rates[name].append(batches[name] * BATCH / used)
    return {name: float(np.median(values)) for name, values in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", help="video to encode (default: moving photographs)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--accelerator",
        type=float,
        default=800,
        help="clips/s that the accelerator trains on (default: 800)",
    )
    parser.add_argument("--frames", type=int, nargs="+", default=[16, 64])
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    peers = {"torch + PyAV": PyavClips}
    with contextlib.suppress(ImportError, RuntimeError, OSError):
        import torchcodec.decoders  # noqa: F401

        peers["torch + torchcodec"] = TorchcodecClips
    print(
        f"av {av.__version__}, cv2 {cv2.__version__}, torch {torch.__version__}; {', '.join(peers)}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["JAXVIDEO_CACHE"] = str(Path(temporary, "cache"))
        for form in FORMS:
            files = make_videos(Path(temporary), form, options.video)
            sources = {"no index": files, "files": indexed(files)}
            for kind in ("mp4", "jpeg", "raw"):
                sources[f"packed {kind}"] = packed(files, Path(temporary, f"{form}-{kind}"), kind)
            for frames in options.frames:
                table(form, frames, sources, peers, options)


def table(form, frames, sources, peers, options) -> None:
    files = sources["no index"]
    if hasattr(os, "memfd_create"):
        (cached,) = cache_frames([files], preprocessing(frames), Loading(cache="ram"))
        sources = {**sources, "cached": cached}
    contenders = {name: peer(clips, files, frames) for name, clips in peers.items()}
    contenders |= {
        f"ours, {name}": ours(source, frames, name != "no index")
        for name, source in sources.items()
    }
    rates = in_turns(contenders, options.rounds)
    best = max(rates[name] for name in peers)
    codec, width, height = FORMS[form]
    print(f"\n{form} ({codec}, {width} x {height}), {frames} frames at stride 1")
    print("\n| | clips/s per core | ratio to the best peer | cores for "
          f"{options.accelerator:g} clips/s |\n|---|---:|---:|---:|")  # fmt: skip
    for name, rate in rates.items():
        cores = options.accelerator / rate
        print(f"| {name} | {rate:.1f} | {rate / best:.2f} | {cores:.1f} |")
    spent = {name: stages(source, frames) for name, source in sources.items()}
    names = list(next(iter(spent.values())))
    print(f"\n| CPU ms per clip | {' | '.join(names)} | whole | bottleneck |")
    print(f"|---|{'---:|' * (len(names) + 1)}---|")
    for source, parts in spent.items():
        row = " | ".join(f"{parts[name]:.2f}" for name in names)
        whole = 1e3 / rates[f"ours, {source}"]
        print(f"| {source} | {row} | {whole:.2f} | {max(parts, key=parts.get)} |")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
