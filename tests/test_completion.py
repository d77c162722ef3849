"""Completion in the shell: argcomplete is called with the parser, only if a shell asks."""

import sys
import types
from pathlib import Path

import jaxvideo.__main__
from jaxvideo import cli
from jaxvideo.names import network_names


def action(parser, name):
    return next(a for a in parser._actions if name in (a.dest, *a.option_strings))


def test_completions(monkeypatch):
    parser = cli.make_parser()
    commands = action(parser, "command").choices
    assert action(commands["predict"], "--model").completer() == network_names()
    recipes = action(commands["train"], "config").completer(prefix="i3d")
    assert "i3d_rgb" in recipes
    assert "common" not in recipes


def test_argcomplete_is_called_if_a_shell_asks(monkeypatch, capsys):
    asked = []
    module = types.SimpleNamespace(autocomplete=asked.append)
    monkeypatch.setitem(sys.modules, "argcomplete", module)
    assert cli.main(["config", "list"]) == 0
    assert not asked
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    assert cli.main(["config", "list"]) == 0
    assert [parser.prog for parser in asked] == ["jaxvideo"]
    monkeypatch.setitem(sys.modules, "argcomplete", None)  # not installed
    assert cli.main(["config", "list"]) == 0


def test_the_program_has_the_mark_of_argcomplete():
    """argcomplete reads the first KiB."""
    assert "PYTHON_ARGCOMPLETE_OK" in Path(jaxvideo.__main__.__file__).read_text()[:1024]
