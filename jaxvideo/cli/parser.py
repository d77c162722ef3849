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

# A key of a config in a message; not the end of `configs/config.py` or of a module's name.
_KEY = re.compile(r"(?<![\w./])(?:--)?config\.(?!py\b)(?=[a-z_])([a-z_]+)")

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


def in_options(message: str, parser: argparse.ArgumentParser) -> str:
    """Rewrites a message of the library, which names config keys and keyword arguments, for a user
    of the command: `--optim.lr` for `config.optim.lr`, `--from=x` for `source=x`.

    Args:
      message: the message.
      parser: parser of the command. Nothing is changed for that of `train.py`.
    """
    if parser.prog.endswith(".py"):
        return message
    message = _KEY.sub(r"--\1", message)
    names = {
        action.dest: action.option_strings[-1]
        for action in parser._actions
        if action.option_strings and action.dest not in ("help", "config")
    }
    if not names:
        return message
    words = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    pattern = rf"(?<![\w.\-/])(?:protocol\.|data\.)?({words})=(?=[\w'\"\[({{.-])"
    return re.sub(pattern, lambda match: f"{names[match[1]]}=", message)


def refuse(parser: argparse.ArgumentParser, message: object) -> None:
    """Writes an error and the usage of the command to stderr, one line each."""
    message = in_options(str(message), parser)
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
