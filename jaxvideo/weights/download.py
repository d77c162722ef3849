"""Downloads of one file: resumed, complete or absent, with progress.

On top of `requests`, which follows redirects and honors proxies. huggingface_hub, which serves
`jaxvideo.load("hf:...")`, resumes too but knows the Hub only; pooch takes any address but starts an
interrupted file again, and knows neither hashes of git nor prefixes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from urllib.parse import urlsplit

import requests

from jaxvideo import __version__
from jaxvideo.progress import LOG, bar, replacing, write_file
from jaxvideo.types import CheckpointError
from jaxvideo.weights.zoo import File

#: Suffix of an incomplete file. `NAME.part.json` tells which file of the server it is.
PART = ".part"

# Attempts without a new byte before a host is given up, and seconds before the second one.
_ATTEMPTS, _PAUSE = 4, 1.0
# Seconds to connect, and between two packets.
_TIMEOUT = (15, 60)
# What is lost of a connection that breaks: less than one chunk.
_CHUNK = 1 << 16
_MB = 1_000_000


class _Refused(Exception):
    """The host does not have the file, or sends something else. Trying again does not help."""


class _Interrupted(Exception):
    """The connection failed. Trying again may help."""


def offline() -> bool:
    """Returns True if `JAXVIDEO_OFFLINE` is set, to anything but 0, so that no host is asked."""
    return os.environ.get("JAXVIDEO_OFFLINE", "0") not in ("", "0")


def download(file: File, urls: tuple[str, ...], target: Path) -> str:
    """Downloads a file and checks its published size and hash. An incomplete one is continued.

    Args:
      file: the file, with what is published about it.
      urls: addresses to try, in this order.
      target: where it appears when it is complete and checked.

    Returns:
      The address it came from.

    Raises:
      CheckpointError: no host has it, the disk is full, or it is not the published file. An
        incomplete file is kept for the next attempt, a wrong one is deleted.
    """
    part = target.with_name(target.name + PART)
    problems = []
    for url in urls:
        try:
            _fetch(file, url, part)
            _check(file, part)
            with replacing(target) as temporary:
                shutil.move(part, temporary)
            _state(part).unlink(missing_ok=True)
            return url
        except (_Refused, _Interrupted) as problem:
            problems.append(f"{urlsplit(url).netloc} {problem}")
        except OSError as error:
            raise CheckpointError(_disk(error, part, file.size)) from error
    kept = part.stat().st_size if part.is_file() else 0
    again = f". {kept / _MB:.1f} MB are kept; the same call continues" if kept else ""
    raise CheckpointError(f"{target.name} was not downloaded: {'; '.join(problems)}{again}")


def _check(file: File, part: Path) -> None:
    """Deletes a file that is not the published one, and raises an error."""
    if problem := difference(file, part):
        _forget(part)
        raise _Refused(f"sends another file than the published one ({problem})")


def difference(file: File, path: Path) -> str:
    """Describes how a file differs from what is published about it; "" if it does not."""
    size = path.stat().st_size
    if file.bytes is not None and size != file.bytes:
        return f"{size} bytes instead of {file.bytes}"
    if not file.hash:
        return ""
    found = digest(path, file.hash_kind)
    if found.startswith(file.hash) if file.hash_kind == "sha256-prefix" else found == file.hash:
        return ""
    return f"{file.hash_kind} {found[: max(len(file.hash), 16)]} instead of {file.hash}"


def digest(path: Path, kind: str = "sha256") -> str:
    """Returns a hash of a file, in hexadecimal digits; `kind` is a row of `zoo.HASHES`."""
    if kind == "git-blob-sha1":
        start = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    else:
        start = hashlib.new(kind.removesuffix("-prefix"))
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: start).hexdigest()


def _fetch(file: File, url: str, part: Path) -> None:
    """Completes `part` from one address, in several attempts."""
    failed, pause = 0, _PAUSE
    while True:
        before = part.stat().st_size if part.is_file() else 0
        try:
            return _transfer(file, url, part)
        except requests.RequestException as error:
            problem = _Interrupted(_reason(error))
        except _Interrupted as error:
            problem = error
        after = part.stat().st_size if part.is_file() else 0
        failed = 1 if after > before else failed + 1
        if failed >= _ATTEMPTS:
            raise problem
        LOG.info(f"{file.name}: {urlsplit(url).netloc} {problem}; trying again")
        time.sleep(pause)
        pause = _PAUSE if after > before else 2 * pause


def _transfer(file: File, url: str, part: Path) -> None:
    """Sends one request and appends the answer to `part`, or starts it again."""
    have, validator = _resumable(file, url, part)
    headers = {"User-Agent": f"jaxvideo/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if validator:
            headers["If-Range"] = validator
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
        if answer.status_code == 416:  # more than the server's file has
            _forget(part)
            raise _Interrupted("has another file than before")
        if answer.status_code in (408, 429) or answer.status_code >= 500:
            raise _Interrupted(f"answers {answer.status_code} {answer.reason}")
        if not answer.ok:
            raise _Refused(f"answers {answer.status_code} {answer.reason} for {url}")
        if answer.headers.get("Content-Type", "").startswith("text/html"):
            raise _Refused(f"sends a web page instead of the file; open {url} in a browser")
        resumed = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        start = have if answer.status_code == 206 and resumed else 0
        length = answer.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        if file.bytes is not None and total not in (None, file.bytes):
            raise _Refused(f"offers {total} bytes instead of the published {file.bytes}")
        if total is not None and shutil.disk_usage(part.parent).free < total - start:
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise CheckpointError(_disk(full, part, total))
        write_file(_state(part), json.dumps({"url": url, "validator": _validator(answer)}))
        _write(answer, part, start, total, file)


def _write(answer, part: Path, start: int, total: int | None, file: File) -> None:
    shown = (
        bar(-(-total // _MB), f"{file.name}, MB", unit="MB", done=start // _MB)
        if total
        else (contextlib.nullcontext(lambda done: None))
    )
    size = start
    with part.open("r+b" if start else "wb") as stream, shown as update:
        stream.seek(start)
        stream.truncate()
        for chunk in answer.iter_content(_CHUNK):
            stream.write(chunk)
            size += len(chunk)
            update(size // _MB)
    if total is not None and size != total:
        raise _Interrupted(f"ended after {size} of {total} bytes")


def _resumable(file: File, url: str, part: Path) -> tuple[int, str]:
    """Returns the size of a part that can be continued, and the server's name for its content."""
    try:
        state = json.loads(_state(part).read_text())
        have, validator = part.stat().st_size, str(state["validator"] or "")
    except (OSError, ValueError, KeyError, TypeError):
        return 0, ""
    # Without a name, only a published hash shows that both parts are from the same file.
    usable = state.get("url") == url and (validator or file.hash)
    return (have, validator) if usable else (0, "")


def _validator(answer) -> str:
    """Returns what If-Range accepts; a weak ETag is not accepted."""
    tag = answer.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified", "")


def _state(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _state(part).unlink(missing_ok=True)


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.exceptions.ProxyError):
        return "is not reached: the proxy does not answer"
    if isinstance(error, requests.exceptions.SSLError):
        return "has no valid certificate"
    if isinstance(error, requests.exceptions.Timeout):
        return "does not answer"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "closed the connection"
    if isinstance(error, requests.exceptions.ConnectionError):
        return "cannot be reached"
    return f"failed ({type(error).__name__})"


def _disk(error: OSError, part: Path, size: int | None) -> str:
    reason = error.strerror or str(error)
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return f"{part} cannot be written ({reason})"
    free = f"{shutil.disk_usage(part.parent).free / _MB:.0f} MB are free"
    needed = f"the file has {size / _MB:.0f} MB, and {free}" if size else free
    return (
        f"{part} cannot be written ({reason}): {needed}. Free some space, or set JAXVIDEO_CACHE to "
        "a directory on another disk"
    )
