"""Trains a network: `python train.py --config configs/motion.py`.

Any value of the config can be overridden: `--config.optim.lr=0.05`. The same command
continues an interrupted run.
"""

import os
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from jaxvideo import startup
from jaxvideo.progress import LOG, console
from jaxvideo.types import Interrupted, JaxvideoError

_CONFIG = config_flags.DEFINE_config_file("config", help_string="A file of configs/.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run's folder; by default one in runs/ that the config decides."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One of several processes; JAX finds the others (TPU slice, cluster)."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "Of several processes: host:port of the 0th."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "How many they are.")
_PROCESS = flags.DEFINE_integer("process", None, "Which of them this is, from 0.")
flags.mark_flag_as_required("config")


def main(arguments: list[str]) -> None:
    if len(arguments) > 1:
        raise JaxvideoError(f"unknown arguments {arguments[1:]}: flags begin with --")
    # Orbax logs a line per file operation, and the traceback of every error that it also raises.
    logging.set_verbosity(logging.FATAL)
    with startup.abortable():
        from jaxvideo.report import run as pictures
        from jaxvideo.training import distributed
        from jaxvideo.training.config import default_workdir
        from jaxvideo.training.loop import train

    config = _CONFIG.value.to_dict()
    name = Path(flags.FLAGS["config"].config_filename.partition(":")[0]).stem
    workdir = Path(_WORKDIR.value) if _WORKDIR.value else default_workdir(config, name)
    distributed.start(
        _COORDINATOR.value, _PROCESSES.value, _PROCESS.value, detect=_DISTRIBUTED.value
    )
    with distributed.together():
        train(config, workdir)
    if distributed.writes():
        for picture in pictures.draw_run(workdir):
            LOG.info(f"picture: {picture}")


def parse(arguments: list[str]) -> list[str]:
    try:
        return app.parse_flags_with_usage(arguments)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # An override that the config has no key for; the message says which was meant.
        said = str(error).strip("\"'").replace("\\'", "'").replace("\\n", ". ")
        raise JaxvideoError(f"an override on the command line: {said}") from error


if __name__ == "__main__":
    startup.use_huge_pages(os.path.abspath(__file__))
    with startup.interrupts(), console(sys.stdout):
        try:
            app.run(main, flags_parser=parse)
        except Interrupted as stop:
            print(stop, file=sys.stderr)
        except JaxvideoError as error:
            sys.exit(f"error: {error}")
