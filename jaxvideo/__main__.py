"""`python -m jaxvideo`."""

import sys

from jaxvideo import startup
from jaxvideo.cli import main

# Time to unwind after Ctrl-C, in seconds. Everything is written to temporary names first.
_GRACE = 1.0


def run() -> int:
    """Runs a command as a process of its own; returns the exit status."""
    with startup.interrupts(_GRACE):
        return main()


if __name__ == "__main__":
    sys.exit(run())
