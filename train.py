"""Trains a network: `python train.py --config configs/motion.py`.

Any value of the config can be overridden: `--config.optim.lr=0.05`. The same command resumes an
interrupted run. `python -m jaxvideo train` is the same program.
"""

import os
import sys

from jaxvideo import startup

if __name__ == "__main__":
    startup.use_huge_pages(os.path.abspath(__file__))
    with startup.interrupts():
        from jaxvideo.cli.train import main

        sys.exit(main())
