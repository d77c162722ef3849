"""How the host reads videos: `config.loading`."""

from __future__ import annotations

import dataclasses

from jaxvideo.types import ConfigError

#: Where decoded frames may be kept.
CACHES = ("", "ram", "disk")


@dataclasses.dataclass(frozen=True)
class Loading:
    """How the host reads videos. It does not change what is read.

    Attributes:
      threads: decoding threads per process.
      workers: worker processes, each with its own threads. 0 (default): read in this process.
      prefetch: number of batches to hold ready.
      index: keep the frame tables of files in the cache directory, so that a file is opened without
        reading all its packets, see `tables`.
      cache: keep decoded frames, so that each video is decoded once and not once per epoch: "ram"
        or "disk", see `cache.cache_frames`. Empty (default): decode every clip.
    """

    threads: int = 2
    workers: int = 0
    prefetch: int = 2
    index: bool = True
    cache: str = ""

    def __post_init__(self):
        for name, least in (("threads", 1), ("workers", 0), ("prefetch", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"loading.{name}={getattr(self, name)}: must be at least {least}")
        if self.cache not in CACHES:
            raise ConfigError(
                f"loading.cache={self.cache!r}: allowed are {', '.join(map(repr, CACHES))}"
            )
