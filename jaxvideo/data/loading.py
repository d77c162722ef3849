"""How the host reads videos: `config.loading`."""

from __future__ import annotations

import dataclasses

from jaxvideo.types import ConfigError


@dataclasses.dataclass(frozen=True)
class Loading:
    """How the host reads videos. It does not change what is read.

    Attributes:
      threads: decoding threads per process.
      workers: worker processes, each with its own threads. 0 (default): read in this process.
      prefetch: number of batches to hold ready.
    """

    threads: int = 2
    workers: int = 0
    prefetch: int = 2

    def __post_init__(self):
        for name, least in (("threads", 1), ("workers", 0), ("prefetch", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"loading.{name}={getattr(self, name)}: must be at least {least}")
