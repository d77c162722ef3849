"""`python -m jaxvideo`."""

import sys

from jaxvideo.cli import main

if __name__ == "__main__":
    sys.exit(main())
