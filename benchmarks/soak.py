"""Trains for two thousand steps with worker processes and checks that no process leaks memory.

    python benchmarks/soak.py [--steps 2000] [--workers 3]

Trains a very small network on the motion data. Every two seconds it reads the resident memory and
the number of open descriptors of the training process and its workers. For each process it prints
the slope of the memory over the second half of the run, in MiB per 1000 steps, and the scatter
around that slope.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent


def family(process: int) -> list[int]:
    """Returns a process and all its descendants."""
    found = [process]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # the thread has just ended
                found += [int(child) for child in task.read_text().split()]
    return found


def usage(process: int) -> tuple[float, int]:
    """Returns resident memory in MiB (private and shared) and the number of open descriptors."""
    status = Path(f"/proc/{process}/status").read_text()
    resident = int(status.split("VmRSS:")[1].split()[0]) / 1024
    return resident, len(os.listdir(f"/proc/{process}/fd"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=3)
    options = parser.parse_args()
    workdir = ROOT / "runs" / "soak"
    shutil.rmtree(workdir, ignore_errors=True)
    command = [
        *(sys.executable, "train.py", "--config=configs/motion.py", f"--workdir={workdir}"),
        *("--config.data.train_videos=64", "--config.data.val_videos=16"),
        *("--config.epoch_steps=200", f"--config.epochs={options.steps / 200}"),
        *("--config.model.width=0.0625", "--config.preprocessing.frames=4"),
        *("--config.preprocessing.size=34", "--config.preprocessing.crop=32"),
        *("--config.batch_size=8", "--config.eval_batch_size=8"),
        *("--config.loading.threads=1", f"--config.loading.workers={options.workers}"),
    ]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    seen: dict[int, list[tuple[float, float, int]]] = {}
    started = time.monotonic()
    while run.poll() is None:
        for process in family(run.pid):
            try:
                resident, descriptors = usage(process)
            except (OSError, IndexError):  # the process has just ended
                continue
            seen.setdefault(process, []).append((time.monotonic() - started, resident, descriptors))
        time.sleep(2)
    if run.returncode:
        sys.exit(f"the run failed: exit status {run.returncode}")
    lasting = max(len(rows) for rows in seen.values())
    steps_per_second = options.steps / (time.monotonic() - started)
    print("| process | MiB | slope, MiB per 1000 steps | scatter, MiB | descriptors |")
    print("|---|---|---|---|---|")
    for process, rows in seen.items():
        if len(rows) < lasting / 2:
            continue  # it did not exist for the whole run
        half = np.array(rows[len(rows) // 2 :])
        slope, at_zero = np.polyfit(half[:, 0], half[:, 1], 1)
        scatter = np.std(half[:, 1] - slope * half[:, 0] - at_zero)
        name = "training" if process == run.pid else f"worker {process}"
        per_thousand = slope / steps_per_second * 1000
        fds = f"{int(half[0, 2])} to {int(half[-1, 2])}"
        print(f"| {name} | {half[-1, 1]:.0f} | {per_thousand:+.1f} | {scatter:.1f} | {fds} |")


if __name__ == "__main__":
    main()
