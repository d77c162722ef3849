"""Prints the table of docs/motion.md: which networks use the order of frames.

    python benchmarks/motion_table.py [--runs runs/motion_table] [MODEL ...]

Runs `configs/motion.py` once per model, with the same width, data, steps and schedule except where
the config's RECIPES say otherwise, and prints a table in Markdown. Finished runs are not repeated.
About three minutes per model on two cores.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from configs.motion import RECIPES

KINDS = ("r2d", "f_r2d", "mc2", "mc3", "mc4", "mc5", "r3d", "rmc2", "rmc3", "rmc4", "rmc5")
MODELS = (
    "r2plus1d_18",
    *(f"{kind}_18" for kind in KINDS),
    "c3d",
    "c3d_depth1",
    "c3d_depth3",
    "resnet18_3d_a",
    "p3d_63",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "motion_table")
    options = parser.parse_args()
    rows = []
    for model in options.models:
        workdir = (options.runs / model).resolve()
        command = [
            sys.executable,
            "train.py",
            f"--config=configs/motion.py:{model}",
            f"--workdir={workdir}",
        ]
        subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
        result = json.loads((workdir / "result.json").read_text())
        records = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
        rows.append((model, result, records[-1]))
    print("\n| model | video top-1 | one-clip validation | training clips | own recipe |")
    print("|---|---:|---:|---:|---|")
    for model, result, last in sorted(rows, key=lambda row: -row[1]["top1"]):
        shares = [result["top1"], last["val_top1"], last["top1"]]
        own = ", ".join(f"`{key}={value}`" for key, value in RECIPES.get(model, {}).items())
        print(f"| `{model}` | {' | '.join(f'{100 * share:.1f} %' for share in shares)} | {own} |")
    print(f"\n{rows[0][1]['videos']} validation videos; {rows[0][1]['protocol']}.")


if __name__ == "__main__":
    main()
