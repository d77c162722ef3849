"""Folders like the published HMDB51 and UCF101: train, test and check, with nothing left out."""

import json
import subprocess
import sys

import jax
import pytest

from configs import motion
from jaxvideo.cli import main
from jaxvideo.data.datasets.load import load_splits
from jaxvideo.training.loop import train
from tests.conftest import write_video
from tests.data.published import write
from tests.data.unusual_videos import packed

pytestmark = pytest.mark.full


def hmdb51(root):
    """DivX files with packed bitstreams; lists of train (1), test (2) and unused (0) videos."""
    for number, name in enumerate(("brush_hair", "cartwheel", "wave")):
        lines = []
        (root / "hmdb51" / name).mkdir(parents=True)
        for k in range(5):
            file = f"April_{k:02}_{name}_u_nm_np1_ba_goo_{k}.avi"
            # `#` begins the names of some videos.
            file = "#" + file if k == 1 else file
            filler = b"\x7f" if k % 2 else b"\0\0\1\xb6" + bytes([0b01010000, 0b01001111])
            packed(root / "hmdb51" / name / file, 13 + 2 * number, filler)
            lines.append(f"{file} {(1, 1, 1, 2, 0)[k]} ")
        write(root, f"testTrainMulti_7030_splits/{name}_test_split1.txt", "\n".join(lines))
    return {"train": 9, "test": 3}, "packed bitstream"


def ucf101(root):
    """XviD files; the numbers of the classes begin at 1."""
    names = ("ApplyEyeMakeup", "Archery")
    lines = "\r\n".join(f"{k} {name}" for k, name in enumerate(names, 1))
    write(root, "ucfTrainTestlist/classInd.txt", lines + "\r\n")
    rows = {"train": [], "test": []}
    for number, name in enumerate(names, 1):
        (root / "UCF-101" / name).mkdir(parents=True)
        for group in range(1, 7):
            file = f"v_{name}_g{group:02}_c01.avi"
            write_video(root / "UCF-101" / name / file, 20, codec="mpeg4", size=(60, 80))
            split = "test" if group < 3 else "train"
            rows[split].append(f"{name}/{file}" + f" {number}" * (split == "train"))
    for split, own in rows.items():
        write(root, f"ucfTrainTestlist/{split}list01.txt", "\r\n".join(own) + "\r\n")
    return {"train": 8, "test": 4}, ""


@pytest.mark.parametrize("build", [hmdb51, ucf101])
def test_train_evaluate_and_doctor(tmp_path, capsys, build):
    root = tmp_path / "data"
    root.mkdir()
    counts, remark = build(root)
    splits = load_splits(root)
    assert {split: len(dataset) for split, dataset in splits.items()} == counts
    assert not any(dataset.missing for dataset in splits.values())

    assert main(["doctor", str(root)]) == 0
    told = capsys.readouterr().out
    total = sum(counts.values())
    assert f"{total} videos, {total} ok, 0 suspicious, 0 broken" in told
    assert remark in told
    assert not (root / "quarantine.txt").exists()
    assert main(["data", str(root)]) == 0

    values = motion.get_config("f_r2d_10")
    values.data.source, values.data.root = "auto", str(root)
    values.model.width = 1 / 16
    values.epochs, values.epoch_steps = 1.0, 1
    values.batch_size = values.eval_batch_size = jax.device_count()
    values.preprocessing.frames = 4
    values.preprocessing.size, values.preprocessing.crop = 24, 20
    values.optim.warmup_epochs = 0.0
    values.protocol.clips = 1
    values.compilation_cache = ""
    result = train(values.to_dict(), tmp_path / "run")
    assert (result["videos"], result["unreadable_videos"]) == (counts["test"], 0)

    out = tmp_path / "out"
    program = "import sys; from jaxvideo.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["evaluate", "--checkpoint", tmp_path / "run", "--split", "test", "--out", out]
    done = subprocess.run([sys.executable, "-c", program, *arguments], check=True, timeout=240)
    assert done.returncode == 0
    report = json.loads((out / "result.json").read_text())
    assert (report["videos"], report["broken"]) == (counts["test"], {})
