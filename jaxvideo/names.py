"""Names: suggestions for misspelled ones, and escapes for file names that text cannot hold.

A file name on Linux is any sequence of bytes. Python decodes bytes that are not UTF-8 to
surrogates, which cannot be printed or written as UTF-8, and a name may contain line breaks.
`escape` makes such a name printable and one line long; `unescape` returns the original.
"""

from __future__ import annotations

import codecs
import difflib
import json
import re
import sys
from collections.abc import Iterable
from importlib import resources

#: Maximum number of suggestions.
MOST = 8

# Control characters, line separators, and surrogates, of which U+DC80 to U+DCFF stand for bytes.
_UNPRINTABLE = "\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
_IN_NAMES = re.compile(f"[{_UNPRINTABLE}\\\\]")
_IN_MESSAGES = re.compile(f"[{_UNPRINTABLE}]")
_ESCAPES = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|([ntr\\]))")
_LETTERS = {"\n": "n", "\t": "t", "\r": "r", "\\": "\\"}
_CHARACTERS = {letter: character for character, letter in _LETTERS.items()}


def nearest(name: str, choices: Iterable[str]) -> list[str]:
    """Returns at most eight similar choices, the most similar first.

    Choices that begin with the name come first, the shortest of them before the others. Then come
    choices with a part that is the name (`optim.lr` for `lr`), and those of similar spelling.

    Example:
      >>> nearest("slow", ["c3d", "slowfast", "slow_r50"])
      ['slowfast', 'slow_r50']
    """
    folded = {choice.lower().lstrip("-"): choice for choice in choices}  # also of options
    given = name.lower().lstrip("-")
    begin = sorted((c for c in folded if c.startswith(given)), key=len) if given else []
    last = given.rpartition(".")[2]
    parts = [c for c in folded if last and last in re.split(r"[._-]", c)]
    similar = difflib.get_close_matches(given, folded, n=3, cutoff=0.6)
    ratios = [difflib.SequenceMatcher(None, one, given).ratio() for one in similar]
    similar = [c for c, ratio in zip(similar, ratios, strict=True) if ratio > max(ratios) - 0.15]
    return [folded[c] for c in list(dict.fromkeys([*begin, *parts, *similar]))[:MOST]]


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Returns " Did you mean 'a', 'b' or 'c'?" for an error message; "" if nothing is similar.

    Example:
      >>> did_you_mean("widht", ["width", "dtype"])
      " Did you mean 'width'?"
    """
    *first, last = map(repr, nearest(name, choices) or [""])
    if last == "''":
        return ""
    return f" Did you mean {', '.join(first)}{' or ' * bool(first)}{last}?"


def network_names() -> list[str]:
    """Returns the names of the networks, without importing them.

    Includes those added by `jaxvideo.register` if `jaxvideo.models` is loaded.
    """
    if loaded := sys.modules.get("jaxvideo.models"):
        return list(loaded.MODELS)
    text = resources.files("jaxvideo").joinpath("models/table.json").read_text(encoding="utf-8")
    return list(json.loads(text))


def escape(name: str) -> str:
    r"""Returns a file name as one printable line of valid Unicode.

    A byte that is not UTF-8 becomes `\xNN`, a line break `\n`, a backslash `\\`.

    Example:
      >>> print(escape("a\nb.mp4"), escape(b"\xe9t\xe9.mp4".decode("utf-8", "surrogateescape")))
      a\nb.mp4 \xe9t\xe9.mp4
    """
    return _IN_NAMES.sub(_escaped, name)


def unescape(text: str) -> str:
    r"""Returns the file name that `escape` was given. Unknown escapes stay as they are.

    Example:
      >>> unescape(r"a\nb.mp4")
      'a\nb.mp4'
    """
    return _ESCAPES.sub(_unescaped, text)


def one_line(message: str) -> str:
    r"""Returns a message with line breaks, control characters and undecodable bytes escaped.

    Unlike `escape` it keeps backslashes, so that it does not escape a name twice.

    Example:
      >>> print(one_line("two\nlines"))
      two\nlines
    """
    return _IN_MESSAGES.sub(_escaped, message)


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    if character in _LETTERS:
        return f"\\{_LETTERS[character]}"
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte, see PEP 383
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"


def _unescaped(match: re.Match[str]) -> str:
    byte, code, letter = match.groups()
    if letter:
        return _CHARACTERS[letter]
    number = int(byte or code, 16)
    return chr(number + 0xDC00 if byte and number >= 0x80 else number)


def _replace(error: UnicodeError) -> tuple[str, int]:
    """Escapes the characters that an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    codes = [(c, ord(c)) for c in text]
    parts = [_escaped(m) if (m := _IN_MESSAGES.match(c)) else f"\\u{n:04x}" for c, n in codes]
    return "".join(parts), error.end


#: Error handler of `str.encode` that escapes what the encoding lacks.
ESCAPED = "jaxvideo.escaped"
codecs.register_error(ESCAPED, _replace)
