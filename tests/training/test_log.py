"""Metrics of a run, and its lines on the console."""

import os
import subprocess
import sys

from jaxvideo.training import distributed
from jaxvideo.training.log import METRICS, metrics_log, read_metrics

SAYS = """
import sys
from jaxvideo.progress import LOG, console
with console(sys.stdout):
    for line in ("one", "two"):
        LOG.info(line)
    LOG.warning("100 %")
"""


def test_closed_stdout_does_not_stop_a_run(repository):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", SAYS], cwd=repository, stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert done.returncode == 0
    assert done.stderr.decode() == "warning: 100 %\n"


def test_a_resumed_run_replaces_its_later_records(tmp_path):
    with metrics_log(tmp_path, 0) as write:
        for step in (1, 2, 3):
            write(step, {"loss": float(step)})
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 4, "lo')  # as after SIGKILL during a write
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2, 3]
    with metrics_log(tmp_path, 2) as write:
        write(3, {"loss": 0.5})
    records = read_metrics(tmp_path)
    assert records[1:] == [{"step": 2, "loss": 2.0}, {"step": 3, "loss": 0.5}]
    assert len(records) == 3


def test_other_loggers_get_each_record(tmp_path):
    seen = []
    with metrics_log(tmp_path, 0, lambda *record: seen.append(record)) as write:
        write(2, {"loss": 1.0})
    assert seen == [(2, {"loss": 1.0})]


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "writes", lambda: False)
    with metrics_log(tmp_path, 0) as write:
        write(1, {"loss": 1.0})
    assert not list(tmp_path.iterdir())
    assert read_metrics(tmp_path) == []
