"""Kills a run repeatedly with SIGKILL and compares its final weights.

    python benchmarks/interruptions.py [--kills 25] [--seed 0] [--folder runs/interruptions]

A small run on the motion data is executed once without interruption. A second run is killed at
random times and at chosen ones: in the first step, while a checkpoint is written, in validation, in
the last step, and in the test. The same command resumes it each time. The final weights of both
runs must be equal bit for bit. A third run on one device is killed once and resumed on four, which
changes the order of sums; no weight may differ by more than 1e-5.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

OVERRIDES = (
    "--config=configs/motion.py",
    "--config.data.train_videos=64",
    "--config.data.val_videos=16",
    "--config.epochs=4.0",
    "--config.batch_size=16",
    "--config.eval_batch_size=16",
    "--config.model.width=0.0625",
    "--config.model.bn_groups=4",
    "--config.preprocessing.size=34",
    "--config.preprocessing.crop=32",
    "--config.optim.warmup_epochs=1.0",
    # At rates of 0.001 and more, rounding errors in this small network grow a hundredfold per step,
    # on any number of devices: two compilations of the same program differ by as much.
    "--config.optim.lr=0.00001",
    "--config.checkpoint.every_steps=3",
    "--config.log_seconds=0.0",
    "--config.ema=0.9",
)


class Run:
    """A process of the run; its output lines are collected."""

    def __init__(self, workdir: Path, devices: int = 1):
        command = [sys.executable, "train.py", *OVERRIDES, f"--workdir={workdir.resolve()}"]
        environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
        self.workdir, self.lines = workdir, []
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line)

    def said(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    def saving(self) -> bool:
        return any("tmp" in path.name for path in (self.workdir / "checkpoints").glob("*"))

    def wait(self, condition, seconds: float) -> bool:
        """Waits until the condition holds; False if the process ends or the time is over first."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.process.poll() is None:
            if condition():
                return True
            time.sleep(0.0005)
        return False

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.reader.join()

    def finish(self):
        code = self.process.wait()
        self.reader.join()
        if code:
            sys.exit(f"the run failed:\n{''.join(self.lines[-20:])}")


def weights(workdir: Path):
    from jaxvideo.training.checkpoint import load_variables
    from jaxvideo.weights import tree

    return tree.flatten(load_variables(workdir)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "interruptions")
    options = parser.parse_args()
    shutil.rmtree(options.folder, ignore_errors=True)
    whole, killed, moved = (options.folder / name for name in ("whole", "killed", "moved"))
    options.folder.mkdir(parents=True)
    Run(whole).finish()  # also fills the compilation cache
    shutil.rmtree(whole)
    started = time.monotonic()
    Run(whole).finish()
    seconds = time.monotonic() - started
    print(f"without interruption: {seconds:.0f} s", flush=True)

    rng = random.Random(options.seed)
    moments = {
        "at random": lambda run: run.wait(lambda: False, rng.uniform(0, seconds)),
        "in the first step": lambda run: run.wait(lambda: run.said("parameters;"), seconds * 3),
        "while saving": lambda run: run.wait(run.saving, seconds * 3),
        "in validation": lambda run: run.wait(
            lambda: any(f"step {n}/16" in line for n in (4, 8, 12) for line in run.lines),
            seconds,
        ),
        "in the last step": lambda run: run.wait(lambda: run.said("step 15/16"), seconds),
        "in the test": lambda run: run.wait(lambda: run.said("testing:"), seconds),
    }
    first, *chosen = moments
    # Early kills may repeat: the run is killed before it makes progress.
    names = chosen[:3] * 3 + [first] * (options.kills - 15) + chosen + chosen[-1:]
    for number, name in enumerate(names[: options.kills], start=1):
        run = Run(killed)
        moments[name](run)
        if run.process.poll() is not None:
            print(f"{number:3d}  {name}: the run had already ended", flush=True)
            shutil.rmtree(killed)
            continue
        run.kill()
        last = next((line.strip() for line in reversed(run.lines) if " step " in line), "no step")
        print(f"{number:3d}  killed {name}; {last}", flush=True)
    run = Run(killed)
    run.finish()
    expected, found = weights(whole), weights(killed)
    same = sum((expected[name] == found[name]).all() for name in expected)
    print(f"{same} of {len(expected)} tensors equal those without interruption, bit for bit")

    run = Run(moved)
    run.wait(lambda: run.said("step 9/16"), seconds * 3)
    run.kill()
    Run(moved, devices=4).finish()
    found = weights(moved)
    far = {name: float(abs(found[name] - value).max()) for name, value in expected.items()}
    worst = max(far, key=far.get)
    print(
        f"resumed on four devices: largest difference {far[worst]:.1e}, at {worst}, "
        f"whose largest is {abs(expected[worst]).max():.1e}"
    )
    if same < len(expected) or far[worst] > 1e-5:
        sys.exit("which should not be")


if __name__ == "__main__":
    main()
