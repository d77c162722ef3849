# PYTHON_ARGCOMPLETE_OK: tells argcomplete that it may call this program for completions.
"""`python -m jaxvideo` and the console script `jaxvideo`."""

import sys

from jaxvideo import startup

# Seconds that a command may take to end after Ctrl-C. An abrupt end leaves no incomplete files,
# because all files are written under temporary names.
_GRACE = 1.0


def run() -> int:
    """Runs a command as the main program of this process; returns the exit status."""
    startup.use_huge_pages("jaxvideo" if __name__ == "__main__" else sys.argv[0])
    with startup.interrupts(_GRACE):
        from jaxvideo.cli import main

        return main()


if __name__ == "__main__":
    sys.exit(run())
