"""Kills a run with SIGKILL again and again, and compares what it ends with.

    python benchmarks/interruptions.py [--kills 25] [--seed 0] [--folder runs/interruptions]

A small run on the motion data, once undisturbed, then killed at random moments and in chosen
ones: in the first step, while a checkpoint is written, in validation, in the last step, in the
test. Each time the same command continues it. The weights at the end must be the undisturbed
run's bit for bit. Then a run on one device is killed once and continued on four, which changes
the order of sums: no number may differ by more than 1e-5.
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
    # At 0.001 and above a rounding error grows a hundredfold per step in so small a network, on
    # one device as on four: two compilations of the same program differ as much.
    "--config.optim.lr=0.00001",
    "--config.checkpoint.every_steps=3",
    "--config.log_seconds=0.0",
    "--config.ema=0.9",
)


class Run:
    """A process of the run, whose lines are kept as they come."""

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
        """Until the condition holds; whether it did before the end of the process, or the time."""
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
    Run(whole).finish()  # compiles, too
    shutil.rmtree(whole)
    started = time.monotonic()
    Run(whole).finish()
    seconds = time.monotonic() - started
    print(f"undisturbed: {seconds:.0f} s", flush=True)

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
    # Early ones come again: a run is killed in them before it gets on.
    names = chosen[:3] * 3 + [first] * (options.kills - 15) + chosen + chosen[-1:]
    for number, name in enumerate(names[: options.kills], start=1):
        run = Run(killed)
        moments[name](run)
        if run.process.poll() is not None:
            print(f"{number:3d}  {name}: it had ended", flush=True)
            shutil.rmtree(killed)
            continue
        run.kill()
        last = next((line.strip() for line in reversed(run.lines) if " step " in line), "no step")
        print(f"{number:3d}  killed {name}; {last}", flush=True)
    run = Run(killed)
    run.finish()
    expected, found = weights(whole), weights(killed)
    same = sum((expected[name] == found[name]).all() for name in expected)
    print(f"{same} of {len(expected)} tensors are the undisturbed run's, bit for bit")

    run = Run(moved)
    run.wait(lambda: run.said("step 9/16"), seconds * 3)
    run.kill()
    Run(moved, devices=4).finish()
    found = weights(moved)
    far = {name: float(abs(found[name] - value).max()) for name, value in expected.items()}
    worst = max(far, key=far.get)
    print(
        f"continued on four devices: {far[worst]:.1e} at most, at {worst}, "
        f"whose largest is {abs(expected[worst]).max():.1e}"
    )
    if same < len(expected) or far[worst] > 1e-5:
        sys.exit("which should not be")


if __name__ == "__main__":
    main()
