"""Process start-up: cache directories, the compilation cache, several processes and Ctrl-C.

This module imports the standard library only, because `--help`, loader workers and `import
jaxvideo` must not load JAX.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from jaxvideo.progress import LOG, drawing
from jaxvideo.types import ConfigError

#: Exit status of a process that Ctrl-C ended, as shells report it (128 + SIGINT).
INTERRUPTED = 130

# JAX keeps only programs that took 1 s to compile. A prediction also compiles small ones.
_MIN_COMPILE_SECONDS = 0.1


def cache_directory() -> Path:
    """Returns the directory for files that jaxvideo can create again.

    The first of these that is set: `$JAXVIDEO_CACHE`, `$XDG_CACHE_HOME/jaxvideo`,
    `~/.cache/jaxvideo`. The directory is not created.

    Example:
      >>> import os
      >>> os.environ["JAXVIDEO_CACHE"] = "/tmp/jaxvideo"
      >>> cache_directory().as_posix()
      '/tmp/jaxvideo'
    """
    if own := os.environ.get("JAXVIDEO_CACHE"):
        return Path(own).expanduser()
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    # The specification of XDG_CACHE_HOME demands that relative paths are ignored.
    return (base if base.is_absolute() else Path("~/.cache").expanduser()) / "jaxvideo"


def compilation_cache_directory() -> Path:
    """Returns `$JAX_COMPILATION_CACHE_DIR` if it is set, otherwise `cache_directory() / "xla"`."""
    if given := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(given).expanduser()
    return cache_directory() / "xla"


def use_compilation_cache(
    folder: str = "default", warn: Callable[[str], None] = LOG.warning
) -> Path | None:
    """Lets JAX store compiled programs on disk, so that the next process does not compile them.

    JAX is not imported: if it is not loaded yet, the environment variables that it reads are set.
    Values that the user has set (`JAX_COMPILATION_CACHE_DIR`,
    `JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS`) are kept.

    Args:
      folder: directory of the cache; "default" is `compilation_cache_directory()`; "" disables
        the cache.
      warn: receives one line if the default directory is not writable (default: the log). The
        cache is then disabled.

    Returns:
      The directory, or None if the cache is disabled.

    Raises:
      ConfigError: `folder` names a directory that is not writable.

    Example:
      >>> use_compilation_cache("") is None
      True
    """
    if not folder:
        _set_jax("jax_compilation_cache_dir", None)
        return None
    path = compilation_cache_directory() if folder == "default" else Path(folder).expanduser()
    if folder == "default" and "jax" in sys.modules:  # the program may have chosen a directory
        path = Path(sys.modules["jax"].config.jax_compilation_cache_dir or path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        if folder != "default":
            raise ConfigError(
                f"config.compilation_cache={folder!r} cannot be written: {reason}. Name a writable "
                "directory, or '' for none"
            ) from error
        _set_jax("jax_compilation_cache_dir", None)
        warn(
            f"compiled programs are not cached: {path} cannot be written ({reason}). Set "
            "JAXVIDEO_CACHE to a writable directory"
        )
        return None
    _set_jax("jax_compilation_cache_dir", str(path))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        _set_jax("jax_persistent_cache_min_compile_time_secs", _MIN_COMPILE_SECONDS)
    return path


def one_of_several() -> bool:
    """Returns True if the environment states that this process is one of several.

    It knows Slurm steps of several tasks, TPU slices of several hosts, Open MPI, and JAX's own
    variable.

    Example:
      >>> one_of_several()
      False
    """
    env = os.environ
    counts = (env.get("SLURM_STEP_NUM_TASKS"), env.get("OMPI_COMM_WORLD_SIZE"))
    hosts = env.get("TPU_WORKER_HOSTNAMES", "").split(",")
    several = any(count and count.isdigit() and int(count) > 1 for count in counts)
    return several or len(hosts) > 1 or "JAX_COORDINATOR_ADDRESS" in env


def _set_jax(name: str, value: Any) -> None:
    if "jax" in sys.modules:
        sys.modules["jax"].config.update(name, value)
    elif value is None:
        os.environ.pop(name.upper(), None)
    else:
        os.environ[name.upper()] = str(value)


# Ctrl-C. Python runs signal handlers between bytecodes of the main thread, hence not before a
# call into XLA's compiler has returned, which takes seconds to minutes. A thread that reads the
# descriptor of `signal.set_wakeup_fd` learns of the signal at once.

_ABORTABLE = [0]  # depth of `abortable` contexts
_REPORTED = [threading.Lock()]


@contextlib.contextmanager
def abortable() -> Iterator[None]:
    """Marks work that Ctrl-C may abort without any cleanup, such as compilation.

    It has an effect inside `interrupts` only: SIGINT then ends the process at once, even if the
    main thread is inside the compiler.

    Example:
      >>> with abortable():
      ...     compiled = sum([1, 2])
    """
    _ABORTABLE[0] += 1
    try:
        yield
    finally:
        _ABORTABLE[0] -= 1


@contextlib.contextmanager
def interrupts(grace: float | None = None) -> Iterator[None]:
    """Handles Ctrl-C for a whole program, also while the main thread is inside compiled code.

    Inside `abortable`, SIGINT ends the process at once. Elsewhere the usual handler runs, which
    by default raises KeyboardInterrupt. In both cases the exit status is 130 and stderr gets the
    line `interrupted`; no traceback is printed.

    Args:
      grace: seconds after SIGINT in which the program must end; then the process is ended. It
        applies only to Python's default handler. None: no limit.

    Example:
      >>> with interrupts():
      ...     pass
    """
    _REPORTED[0] = threading.Lock()
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    try:
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    except ValueError:  # not the main thread, which alone may set it
        reader.close()
        writer.close()
        yield
        return
    threading.Thread(target=_watch, args=(reader, grace), name="interrupts", daemon=True).start()
    try:
        yield
    except KeyboardInterrupt:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        _end()
    finally:
        signal.set_wakeup_fd(before)
        writer.close()  # which ends the thread


def _watch(reader: socket.socket, grace: float | None) -> None:
    """Reads numbers of signals until the socket is closed on the other side."""
    deadline = None
    with reader:
        while True:
            if deadline is not None:
                reader.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                numbers = reader.recv(64)
            except TimeoutError:
                _end()
            if not numbers:
                return
            if signal.SIGINT not in numbers:
                continue
            if _ABORTABLE[0]:
                _end()
            usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
            if grace is not None and usual and deadline is None:
                deadline = time.monotonic() + grace


def _end() -> NoReturn:
    """Ends the process without Python's and JAX's teardown, which crashes during a compilation."""
    if not _REPORTED[0].acquire(blocking=False):
        while True:  # another thread is about to end the process
            time.sleep(1)
    try:
        os.write(2, b"\n" * drawing() + b"interrupted\n")
        if "multiprocessing" in sys.modules:
            for child in sys.modules["multiprocessing"].active_children():
                child.kill()
    finally:
        os._exit(INTERRUPTED)


# Memory pages. XLA allocates the temporary arrays of a program again in every call and frees them
# afterwards. glibc returns such large blocks to the system, hence each call faults in every page
# again. Huge pages reduce the faults by a factor of 512. glibc reads the setting at process start.

_TUNABLE = "glibc.malloc.hugetlb=1"
_PAGES = "/sys/kernel/mm/transparent_hugepage/enabled"


def use_huge_pages(program: str) -> None:
    """Restarts this process once with huge pages for large allocations, if that helps.

    The restart (`execv`) keeps the process ID, the arguments and the interpreter's options. Call it
    before anything expensive is imported. It requires Linux with glibc 2.35 or newer, and the
    kernel's mode `madvise` for transparent huge pages. The process is not restarted if

    - the environment has `JAXVIDEO_HUGE_PAGES=0`,
    - GLIBC_TUNABLES already contains the setting, or
    - the process runs under a debugger or profiler.

    Args:
      program: how this process was started: the name of a module (`python -m NAME`) or the path
        of a script. If the command line differs, nothing happens.

    Example:
      >>> use_huge_pages("jaxvideo")  # not started as `python -m jaxvideo`
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if (
        os.environ.get("JAXVIDEO_HUGE_PAGES") == "0"
        or "_ARGCOMPLETE" in os.environ  # a shell asks for completions, see `cli.main`
        or "glibc.malloc.hugetlb" in tunables  # set by the user, or this is the second start
        or not huge_pages_available()
        or not _started_as(program)
        or sys.gettrace()
        or sys.getprofile()
        or {"pdb", "debugpy", "pydevd"} & set(sys.modules)
    ):
        return
    environment = {**os.environ, "GLIBC_TUNABLES": ":".join(filter(None, (tunables, _TUNABLE)))}
    with contextlib.suppress(OSError):  # then it runs without
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def huge_pages_available() -> bool:
    """Returns True if glibc can ask this kernel for transparent huge pages.

    Example:
      >>> isinstance(huge_pages_available(), bool)
      True
    """
    if sys.platform != "linux":
        return False
    try:
        library, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        numbers = tuple(int(part) for part in version.split(".")[:2])
        mode = Path(_PAGES).read_text()
    except (OSError, ValueError):  # another C library, or a kernel without huge pages
        return False
    return library == "glibc" and numbers >= (2, 35) and "[madvise]" in mode


def _started_as(program: str) -> bool:
    """Returns True if the interpreter's command line is `python [options] program arguments`."""
    head = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    if not sys.executable or sys.orig_argv[len(head) :] != sys.argv[1:]:
        return False
    if os.sep not in program:
        return head[-2:] == ["-m", program]
    with contextlib.suppress(OSError):
        return os.path.samefile(head[-1], program)
    return False
