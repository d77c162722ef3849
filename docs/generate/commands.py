"""The options of every command, from its argument parser."""

import argparse
import re

from generate.text import code, escaped, table
from jaxvideo.cli import make_parser
from jaxvideo.cli.parser import usage

HEAD = """# Commands and options

Every command with its arguments, generated from the parsers: the content of
`jaxvideo COMMAND --help`. [Command line](../command-line.md) has the commands by purpose, output
formats and exit statuses.
"""


def _subparsers(parser: argparse.ArgumentParser):
    """Yields name, parser and summary of every command of a parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for row in action._choices_actions:
                yield row.dest, action.choices[row.dest], row.help or ""


def _text(text: str) -> str:
    """Returns a text with its options as code."""
    parts = re.split(r"(`[^`]*`)", escaped(text))
    parts[::2] = [re.sub(r"(?<![\w-])(--[a-z][\w.-]*\w)", r"`\1`", part) for part in parts[::2]]
    return "".join(parts)


def _arguments(parser: argparse.ArgumentParser):
    formatter = parser._get_formatter()
    for action in parser._actions:
        skipped = isinstance(action, (argparse._HelpAction, argparse._SubParsersAction))
        if skipped or action.help is argparse.SUPPRESS:
            continue
        value = "" if action.nargs == 0 else formatter._format_args(action, action.dest.upper())
        names = [f"{name} {value}".strip() for name in action.option_strings] or [value]
        text = formatter._expand_help(action) if action.help else ""
        yield ", ".join(map(code, names)), _text(text)


def _section(name: str, parser: argparse.ArgumentParser, summary: str, level: int):
    yield f"{'#' * level} `jaxvideo {name}`\n"
    summary = f"{summary[:1].upper()}{summary[1:]}."
    yield f"{_text(parser.description or summary)}\n"
    yield f"```text\n{usage(parser).removeprefix('usage: ')}\n```\n"
    if rows := list(_arguments(parser)):
        yield table(("argument", "meaning"), rows)
    for inner, command, summary in _subparsers(parser):
        yield from _section(f"{name} {inner}", command, summary, level + 1)


def pages() -> dict[str, str]:
    parts = [HEAD]
    for name, parser, summary in sorted(_subparsers(make_parser()), key=lambda row: row[0]):
        parts += _section(name, parser, summary, 2)
    return {"commands.md": "\n".join(parts)}
