"""A list of labeled videos."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

from jaxvideo.data.video import VideoFile, open_video
from jaxvideo.types import VideoError


@dataclasses.dataclass(frozen=True)
class VideoDataset:
    """Labeled videos: `paths[i]` has the class `classes[labels[i]]`.

    Attributes:
      paths: files or folders of frames.
      labels: index of each video's class; if it has several, the first.
      classes: class names in the order of their indices.
      label_sets: all class indices of each video, if some video has several; otherwise empty.
      missing: annotated videos that do not exist, named as in the annotations.
      quarantined: paths that the quarantine file excludes.
      declared: number of frames of each video in the annotations, 0 if unknown; or empty.
      kept: file of frame tables, see `indexed`.
    """

    paths: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    label_sets: tuple[tuple[int, ...], ...] = ()
    missing: tuple[str, ...] = ()
    quarantined: tuple[str, ...] = ()
    declared: tuple[int, ...] = ()
    kept: str = dataclasses.field(default="", compare=False)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def annotated(self) -> int:
        """Number of videos in the annotations."""
        return len(self) + len(self.missing) + len(self.quarantined)

    @property
    def coverage(self) -> str:
        """Describes how many of the annotated videos exist."""
        text = f"{self.annotated - len(self.missing):,} of {self.annotated:,} videos exist"
        if self.missing:
            more = ", ..." if len(self.missing) > 3 else ""
            text += f" (missing: {', '.join(self.missing[:3])}{more})"
        return text + f", {len(self.quarantined):,} in quarantine" * bool(self.quarantined)

    def part(self, videos: range) -> VideoDataset:
        """Returns consecutive videos as a data set that is quickly sent to another process."""
        some = slice(videos.start, videos.stop)
        lists = {name: getattr(self, name)[some] for name in ("paths", "labels", "label_sets")}
        declared = self.declared[some]
        return dataclasses.replace(self, **lists, declared=declared, missing=(), quarantined=())

    @contextlib.contextmanager
    def open(self, index: int) -> Iterator[VideoFile]:
        """Opens the video at `index`; a context manager.

        Raises:
          VideoError: the video cannot be read, or has another number of frames than declared.
        """
        with open_video(self.paths[index], kept=self.kept) as video:
            declared = self.declared[index] if self.declared else 0
            if declared not in (0, video.num_frames):
                raise VideoError(wrong_count(self.paths[index], declared, video.num_frames))
            yield video


def wrong_count(path: str, declared: int, found: int) -> str:
    """Returns the message for a number of frames that differs from the annotations."""
    return f"{path}: the annotations state {declared} frames, but there are {found}"
