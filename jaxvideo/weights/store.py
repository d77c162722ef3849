"""The cache of downloaded weights: `CACHE/weights/NETWORK/TAG/`.

A directory holds the publisher's files, `weights.safetensors` with `weights.json`, which are the
same weights in jaxvideo's format, and `record.json` with the size and SHA-256 of all. Files are
used only if they equal the record. A directory can be copied to another machine, and
`CACHE/weights` can be served as a mirror.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock, Timeout

from jaxvideo import __version__
from jaxvideo.progress import LOG, write_file
from jaxvideo.startup import cache_directory
from jaxvideo.types import CheckpointError, ConfigError
from jaxvideo.weights import download, formats
from jaxvideo.weights.zoo import File, Row

#: Name of the converted file.
CONVERTED = "weights.safetensors"

_RECORD, _LOCK = "record.json", ".lock"
# Seconds to wait for another process before a message says so.
_PATIENCE = 2.0


def root() -> Path:
    """Returns the directory of all downloaded weights; it need not exist."""
    return cache_directory() / "weights"


def folder(row: Row) -> Path:
    """Returns the directory of some weights; it need not exist."""
    return root() / row.network / row.tag


def converted(row: Row, warn: bool = True) -> Path | None:
    """Returns the converted file if it is complete and from this version; None otherwise.

    Args:
      row: the weights.
      warn: log a warning if the file is damaged.
    """
    path, kept = folder(row) / CONVERTED, _read(row).get("converted", {})
    if not path.is_file() or kept.get("from") != _fingerprint(row):
        return None
    if _same(path, kept):
        return path
    if warn:
        LOG.warning(f"{path} is damaged: its SHA-256 has changed. It is made again")
    return None


def keep_converted(row: Row) -> Path:
    """Records the converted file and, from now on, the hashes of the files it was made from."""
    path, record = folder(row) / CONVERTED, _read(row)
    record["converted"] = {**_facts(path), "from": _fingerprint(row)}
    for file in record.get("files", {}).values():
        file["pinned"] = True
    _write(row, record)
    return path


def originals(row: Row) -> Path:
    """Returns the first of the publisher's files, after downloading those that are missing.

    The caller holds `locked(row)`.

    Raises:
      CheckpointError: a file cannot be downloaded, or it is not the published or pinned one.
    """
    missing = [file for file in row.files if not _present(row, file)]
    if missing:
        _announce(row)
        for file in missing:
            _get(row, file)
    return folder(row) / row.files[0].name


def verify(row: Row) -> dict[str, str]:
    """Returns the state of each cached file: "ok", or what is wrong. Empty if nothing is cached."""
    record, found = _read(row), {}
    for file in row.files:
        path, kept = folder(row) / file.name, record.get("files", {}).get(file.name)
        if path.is_file():
            wrong = download.difference(file, path)
            if not wrong and kept and not _same(path, kept):
                wrong = "its SHA-256 has changed"
            found[file.name] = wrong or "ok"
    path, kept = folder(row) / CONVERTED, record.get("converted")
    if path.is_file():
        same = kept and _same(path, kept)
        found[CONVERTED] = "ok" if same else "its SHA-256 has changed"
    return found


@contextlib.contextmanager
def locked(row: Row) -> Iterator[None]:
    """Makes this process the only one that writes to the directory of some weights.

    Hosts that share the directory wait for each other, too.

    Raises:
      CheckpointError: the directory cannot be written.
    """
    path = folder(row)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / _LOCK)
        try:
            lock.acquire(timeout=_PATIENCE)
        except Timeout:
            LOG.info(f"{row.name}: waiting for another process that downloads it")
            lock.acquire()
    except OSError as error:
        raise CheckpointError(
            f"{row.name} is not in the cache, and {path} cannot be written "
            f"({error.strerror or error}). Set JAXVIDEO_CACHE to a writable directory"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _get(row: Row, file: File) -> None:
    """Downloads one file and records it."""
    target, record = folder(row) / file.name, _read(row)
    try:
        url = download.download(file, _urls(row, file), target)
    except CheckpointError as error:
        raise CheckpointError(f"{error}. {_other_ways(row)}") from error
    kept = record.get("files", {}).get(file.name, {})
    if kept.get("pinned") and not _same(target, kept):
        found = download.digest(target)
        target.unlink()
        raise CheckpointError(
            f"{url} is another file than the one of {kept.get('date')}: its SHA-256 is {found}, "
            f"not {kept.get('sha256')}. If that is intended, delete {folder(row) / _RECORD}"
        )
    facts = {**_facts(target), "url": url, "date": time.strftime("%Y-%m-%d")}
    record.setdefault("files", {})[file.name] = {**facts, "pinned": bool(kept.get("pinned"))}
    _write(row, record)
    if not file.hash and not kept.get("pinned"):
        LOG.info(
            f"{file.name}: no hash is published. Its SHA-256 {facts['sha256'][:16]}... is recorded "
            "and, after the file has been read, required"
        )


def _urls(row: Row, file: File) -> tuple[str, ...]:
    """Returns the addresses of a file; only the mirror's if there is one.

    Raises:
      CheckpointError: there are none, or network access is disabled.
      ConfigError: the mirror is no address.
    """
    if download.offline():
        raise CheckpointError(
            f"{row.name} is not in the cache {folder(row)}, and JAXVIDEO_OFFLINE is set. Run "
            f"`jaxvideo weights fetch {row.network} {row.tag}` on a machine with network access "
            f"and copy that directory. {_other_ways(row)}"
        )
    if mirror := os.environ.get("JAXVIDEO_MIRROR"):
        if not mirror.startswith(("http://", "https://")):
            raise ConfigError(f"JAXVIDEO_MIRROR={mirror!r}: must begin with https:// or http://")
        path = quote(f"{row.network}/{row.tag}/{file.name}")
        return (f"{mirror.rstrip('/')}/{path}",)
    if not file.urls:
        raise CheckpointError(
            f"{file.name} of {row.name} cannot be downloaded without a browser. {_other_ways(row)}"
        )
    return file.urls


def _other_ways(row: Row) -> str:
    return (
        f"The weights are listed at {row.page}; a file that you have is read with "
        f"jaxvideo.load({row.network!r}, {row.tag!r}, path=FILE)"
    )


def _announce(row: Row) -> None:
    """Logs what is about to be downloaded, from where, and under which terms."""
    for file in row.files:  # raises errors before anything is announced
        _urls(row, file)
    names = ", ".join(file.name for file in row.files)
    size = f"{row.size / 1e6:.1f} MB" if row.size else "size not published"
    where = os.environ.get("JAXVIDEO_MIRROR") or row.hosts[0]
    LOG.info(f"downloading {names} ({size}) from {where} to {folder(row)}")
    described = row.describe()
    wide = max(map(len, described))
    for label, text in described.items():
        LOG.info(f"  {label:<{wide}}  {text}")


def _present(row: Row, file: File) -> bool:
    """Returns True if a file is there and equals its record and what is published about it."""
    path, kept = folder(row) / file.name, _read(row).get("files", {}).get(file.name)
    if not path.is_file():
        return False
    # A file without a record was put there by the user.
    wrong = "" if kept and _same(path, kept) else download.difference(file, path)
    if kept and not wrong and not _same(path, kept):
        wrong = "its SHA-256 has changed"
    if not wrong:
        return True
    LOG.warning(f"{path} is damaged ({wrong}). It is downloaded again")
    path.unlink()
    return False


def _same(path: Path, kept: dict[str, Any]) -> bool:
    return path.stat().st_size == kept.get("bytes") and download.digest(path) == kept.get("sha256")


def _facts(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": download.digest(path)}


def _fingerprint(row: Row) -> str:
    """Identifies what a converted file depends on, beside the original."""
    values = {**dataclasses.asdict(row), "format": formats.FORMAT, "jaxvideo": __version__}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _read(row: Row) -> dict[str, Any]:
    try:
        content = json.loads((folder(row) / _RECORD).read_text())
    except (OSError, ValueError):  # absent, or damaged: then the files are checked again
        return {}
    parts = content.values() if isinstance(content, dict) else [None]
    return content if all(isinstance(part, dict) for part in parts) else {}


def _write(row: Row, record: dict[str, Any]) -> None:
    path = folder(row) / _RECORD
    try:
        write_file(path, json.dumps(record, indent=1) + "\n")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written ({error.strerror})") from error
