"""Tables of commands: for people, as CSV and as JSON."""

import argparse
import csv
import io
import json

import pytest

from jaxvideo import cli
from jaxvideo.cli.shared import Column, percent, show_table
from jaxvideo.cli.train import make_parser
from jaxvideo.types import JaxvideoError, UsageError

COLUMNS = (
    Column("video", name=True),
    Column("top1", "top-1", percent, right=True),
    Column("weight", text="{:.1f}", right=True),
)
ROWS = [("a,\nb.mp4", 0.5, 2), ("\udce9.mp4", None, 10.25)]


def shown(capsys, rows, *, as_json=False, as_csv=False, **how):
    show_table(argparse.Namespace(json=as_json, csv=as_csv), COLUMNS, rows, **how)
    return capsys.readouterr().out


def test_for_people(capsys):
    assert shown(capsys, ROWS) == (
        "video        top-1  weight\na,\\nb.mp4  50.00 %     2.0\n\\xe9.mp4         -    10.2\n"
    )
    by_row = shown(capsys, iter(ROWS[:1]), heads=False, indent="> ")
    assert by_row == "> a,\\nb.mp4  50.00 %  2.0\n"


def test_as_csv(capsys):
    out = shown(capsys, iter(ROWS), as_csv=True)
    assert list(csv.reader(io.StringIO(out))) == [
        ["video", "top1", "weight"],
        [r"a,\nb.mp4", "0.5", "2"],
        [r"\xe9.mp4", "", "10.25"],
    ]


def test_as_json(capsys):
    found = json.loads(shown(capsys, iter(ROWS), as_json=True, name="videos", facts={"n": 2}))
    assert found["n"] == 2
    assert found["videos"][1] == {"video": "\udce9.mp4", "top1": None, "weight": 10.25}
    assert json.loads(shown(capsys, [], as_json=True, document=lambda: [1])) == [1]


def output(capsys, *arguments):
    assert cli.main(list(arguments)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "heads"),
    [
        (["models", "x3d*"], ["name", "parameters", "macs", "clip", "paper", "tags"]),
        (["config", "list"], ["recipe", "summary"]),
        (["config", "show", "motion"], ["key", "value", "changed"]),
        (["env"], ["name", "value"]),
        pytest.param(
            ["expand", "--objective", "published"],
            ["move", "network", "size", "fps"],
            marks=pytest.mark.full,
        ),
    ],
    ids=lambda value: value[0],
)
def test_three_forms(arguments, heads, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = list(csv.reader(io.StringIO(output(capsys, *arguments, "--csv"))))
    assert rows[0][: len(heads)] == heads
    assert len(rows) > 3
    assert {len(row) for row in rows} == {len(rows[0])}
    assert len(json.loads(output(capsys, *arguments, "--json"))) >= 1
    people = output(capsys, *arguments)
    assert rows[2][0] in people
    with pytest.raises(SystemExit):
        cli.main([*arguments, "--json", "--csv"])
    assert "not allowed with argument --" in capsys.readouterr().err


def test_the_same_values_in_each_form(capsys):
    rows = csv.DictReader(io.StringIO(output(capsys, "config", "show", "motion", "--csv")))
    values = {row["key"]: row for row in rows}
    assert values["optim.lr"] == {"key": "optim.lr", "value": "0.05", "changed": "True"}
    assert json.loads(output(capsys, "config", "show", "motion", "--json"))["optim"]["lr"] == 0.05
    assert "* --optim.lr=0.05\n" in output(capsys, "config", "show", "motion")
    row = next(csv.DictReader(io.StringIO(output(capsys, "models", "x3d_m", "--csv"))))
    assert json.loads(output(capsys, "models", "x3d_m", "--json"))["x3d_m"]["macs"] == int(
        row["macs"]
    )


def test_average(tmp_path, capsys):
    for name, top1 in (("one", 0.5), ("two", 0.75)):
        (tmp_path / name).mkdir()
        result = {"top1": top1, "top5": 1.0, "protocol": "10 clips", "model": {}}
        (tmp_path / name / "result.json").write_text(json.dumps(result))
    runs = [str(tmp_path / "one"), str(tmp_path / "two")]
    lines = output(capsys, "average", *runs).splitlines()
    assert lines[0].split() == ["top-1", "top-5", "run"]
    assert lines[-2].split(maxsplit=4) == ["62.50", "%", "100.00", "%", "mean of 2 runs"]
    assert lines[-1] == "10 clips"
    found = json.loads(output(capsys, "average", *runs, "--json"))
    assert found["mean"] == {"top1": 0.625, "top5": 1.0}
    assert [row["run"] for row in found["runs"]] == runs
    assert output(capsys, "average", *runs, "--csv").splitlines()[0] == "top1,top5,run"
    # Runs with few classes have no top-5.
    (tmp_path / "one" / "result.json").write_text(
        json.dumps({"top1": 0.5, "protocol": "10 clips", "model": {}})
    )
    assert "top-5" not in output(capsys, "average", *runs)


def parsers(parser):
    """Yields the parsers of all commands and actions."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from parsers(one)


def test_every_help_names_the_program_and_the_statuses(capsys):
    parser = cli.make_parser()
    for one in (*parsers(parser), make_parser()):
        with pytest.raises(SystemExit) as stop:
            one.parse_args(["--help"])
        assert stop.value.code == 0
        text = " ".join(capsys.readouterr().out.split())
        assert "exit status: 0 success; 1 an error" in text.lower()
        assert "python -m jaxvideo" not in text
        assert one.prog.startswith(("jaxvideo", "python train.py"))


@pytest.mark.parametrize(
    ("error", "status"), [(JaxvideoError("a"), 1), (UsageError("b"), 2), (BrokenPipeError(), 1)]
)
def test_exit_statuses(error, status, monkeypatch, capsys):
    """130 is tested in `test_startup`."""

    def fail(options):
        raise error

    monkeypatch.setattr("jaxvideo.cli.env._versions", lambda: fail(None))
    monkeypatch.setattr("jaxvideo.cli.drop_output", lambda: None)
    assert cli.main(["env"]) == status
    assert "Traceback" not in capsys.readouterr().err
