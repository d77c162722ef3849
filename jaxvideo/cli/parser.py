"""The argument parser: wrong arguments end with the usage of the command and the nearest names."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any, NoReturn

from jaxvideo.names import ESCAPED, did_you_mean

#: Exit status of a command with wrong arguments.
USAGE = 2

#: Printed at the end of every `--help`.
STATUSES = (
    "exit status: 0 success; 1 an error, or some videos failed; 2 wrong arguments; 130 interrupted"
)

_CHOICE = re.compile(r"argument (\S+): invalid choice: '(.*?)' \(choose from (.*)\)")


class Parser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` whose errors are two lines: the error, and the usage."""

    def __init__(self, *args: Any, **options: Any):
        options.setdefault("allow_abbrev", False)  # an abbreviation breaks when options are added
        options.setdefault("epilog", STATUSES)
        super().__init__(*args, **options)

    def error(self, message: str) -> NoReturn:
        """Ends the program with status 2."""
        refuse(self, self._improved(message))
        self.exit(USAGE)

    def _improved(self, message: str) -> str:
        """Replaces argparse's list of all choices by the nearest, and names unknown options."""
        if found := _CHOICE.match(message):
            where, given, listed = found.groups()
            choices = re.findall(r"'?([^\s',]+)'?", listed)
            near, allowed = did_you_mean(given, choices), f"allowed are {', '.join(choices)}"
            if where in ("COMMAND", "ACTION"):
                return f"no {where.lower()} {given!r}{'.' + near if near else ': ' + allowed}"
            return f"{where}={given}: {allowed}{'.' * bool(near)}{near}"
        if message.startswith("unrecognized arguments: "):
            return self.unknown(message.removeprefix("unrecognized arguments: ").split(" "))
        return message

    def options(self) -> list[str]:
        """Returns the long options, such as "--json"."""
        return [option for option in self._option_string_actions if option.startswith("--")]

    def unknown(self, arguments: list[str]) -> str:
        """Returns the error for arguments that the command does not have."""
        first = arguments[0]
        if not first.startswith("-"):
            return f"too many arguments: {' '.join(arguments)}"
        name = first.partition("=")[0]
        return f"no option {name}.{did_you_mean(name, self.options())}"


def refuse(parser: argparse.ArgumentParser, message: object) -> None:
    """Writes an error and the usage of the command to stderr, one line each."""
    text = f"error: {message}\n{usage(parser)}; `{parser.prog} --help` explains them\n"
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    sys.stderr.write(text.encode(encoding, ESCAPED).decode(encoding))


def usage(parser: argparse.ArgumentParser) -> str:
    """Returns the usage in one line: required arguments by name, all options as [OPTIONS]."""
    words = [parser.prog]
    actions = [action for action in parser._actions if action.help is not argparse.SUPPRESS]
    optional = [a for a in actions if a.option_strings and not a.required]
    if optional:
        words.append("[OPTIONS]")
    for action in actions:
        name = action.metavar or action.dest.upper()
        names = " ".join(name) if isinstance(name, tuple) else str(name)
        if action.option_strings and action.required:
            words.append(f"{action.option_strings[0]} {names}")
        elif not action.option_strings:
            many = {"+": f"{names} ...", "*": f"[{names} ...]", "?": f"[{names}]"}
            number = action.nargs if isinstance(action.nargs, int) else 1
            words.append(many.get(str(action.nargs), " ".join([names] * number)))
            if isinstance(action, argparse._SubParsersAction):
                words.append("...")
    return f"usage: {' '.join(words)}"
