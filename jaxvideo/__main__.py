"""`python -m jaxvideo` and the console script `jaxvideo`."""

import sys

from jaxvideo import startup

# Time to unwind after Ctrl-C, in seconds. Everything is written to temporary names first.
_GRACE = 1.0


def run() -> int:
    """Runs a command as a process of its own; returns the exit status."""
    startup.use_huge_pages("jaxvideo" if __name__ == "__main__" else sys.argv[0])
    with startup.interrupts(_GRACE):
        from jaxvideo.cli import main

        return main()


if __name__ == "__main__":
    sys.exit(run())
