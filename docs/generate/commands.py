"""The options of every command, from its argument parser."""

import argparse

from generate.text import code, escaped, table
from jaxvideo.cli import make_parser
from jaxvideo.cli.parser import usage

HEAD = """# Commands and options

Every command with its arguments, generated from the parsers: the content of
`jaxvideo COMMAND --help`. [Command line](../command-line.md) has the commands by purpose, output
formats and exit statuses.
"""


def _subparsers(parser: argparse.ArgumentParser):
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def _arguments(parser: argparse.ArgumentParser):
    formatter = parser._get_formatter()
    for action in parser._actions:
        skipped = isinstance(action, (argparse._HelpAction, argparse._SubParsersAction))
        if skipped or action.help is argparse.SUPPRESS:
            continue
        value = "" if action.nargs == 0 else formatter._format_args(action, action.dest.upper())
        names = [f"{name} {value}".strip() for name in action.option_strings] or [value]
        text = formatter._expand_help(action) if action.help else ""
        yield ", ".join(map(code, names)), escaped(text)


def _section(name: str, parser: argparse.ArgumentParser, level: int):
    yield f"{'#' * level} `jaxvideo {name}`\n"
    yield f"{escaped(parser.description or '')}\n"
    yield f"```text\n{usage(parser).removeprefix('usage: ')}\n```\n"
    if rows := list(_arguments(parser)):
        yield table(("argument", "meaning"), rows)
    for inner, command in _subparsers(parser):
        yield from _section(f"{name} {inner}", command, level + 1)


def pages() -> dict[str, str]:
    parts = [HEAD]
    for name, parser in sorted(_subparsers(make_parser())):
        parts += _section(name, parser, 2)
    return {"commands.md": "\n".join(parts)}
