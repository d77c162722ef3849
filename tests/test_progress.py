"""The log, progress on a terminal and on a pipe, and atomic file writes."""

import fcntl
import io
import logging
import os
import pty
import re
import stat
import struct
import subprocess
import sys
import termios
import threading

import pytest

from jaxvideo import progress

WORK = """
import sys, time
from jaxvideo.progress import LOG, bar, console, echo, track
with console():
    with bar(8, "steps", unit="clips", units=4, every=0.0) as update:
        for step in range(1, 9):
            time.sleep(0.15)
            update(step, waited=0.03, note=lambda rate: f"loss {rate > 0:.1f}")
            if step == 4:
                LOG.info("half way")
    echo("done")
"""


def run(program, repository, **options):
    return subprocess.run(
        [sys.executable, "-c", program], cwd=repository, check=True, timeout=60, **options
    )


def on_terminal(program, repository):
    """Output of a program whose stderr is a terminal of 100 columns, and its stdout."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
    shown = bytearray()

    def read():
        while True:
            try:
                part = os.read(leader, 4096)
            except OSError:  # the last writer has closed it
                return
            if not part:
                return
            shown.extend(part)

    thread = threading.Thread(target=read)
    thread.start()
    done = run(program, repository, stderr=follower, stdout=subprocess.PIPE)
    os.close(follower)
    thread.join(10)
    os.close(leader)
    return shown.decode(), done.stdout.decode()


def test_bar_on_a_terminal(repository):
    shown, out = on_terminal(WORK, repository)
    assert out == "done\n"
    assert "\r" in shown
    states = re.findall(r"(\d+)% \|[^|]+\| (steps \d/8[^\r\n]*)", shown)
    assert len(states) >= 2
    last = states[-1][1]
    assert re.search(r"steps \d/8  [\d.]+ clips/s  data wait \d+ %  ETA 0:0\d  loss 1.0", last)
    assert re.search(r"(^|\r)half way\r?\n", shown), "a log line stands alone"
    assert shown.rstrip(" ").endswith("\r"), "the bar is removed at the end"


def test_lines_on_a_pipe(repository):
    done = run(WORK, repository, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    assert done.stdout == b"done\n"
    assert b"\r" not in done.stderr
    lines = done.stderr.decode().splitlines()
    assert lines.count("half way") == 1
    steps = [line for line in lines if line.startswith("steps")]
    assert len(steps) == 7, "measurement starts with the first update"
    pattern = r"steps (\d)/8  ([\d.]+) clips/s  data wait (\d+) %  ETA 0:0\d  loss 1\.0"
    for line in steps:
        assert re.fullmatch(pattern, line), line
    step, rate, waiting = re.fullmatch(pattern, steps[-1]).groups()
    assert step == "8"
    assert float(rate) <= 4 / 0.15, "clips, not steps"
    assert int(waiting) <= 20, "0.03 of at least 0.15 s"


def test_lines_are_seconds_apart(monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    caplog.set_level(logging.INFO, "jaxvideo")
    with progress.bar(12, "videos", every=1.0) as update:
        for done in range(1, 13):
            now[0] += 0.375
            update(done)
    shown = [message.partition("  ")[0] for message in caplog.messages]
    assert shown == ["videos 4/12", "videos 7/12", "videos 10/12"]


def test_library_without_console_is_silent(repository):
    program = WORK.replace("with console():", "if True:")
    done = run(program, repository, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    assert (done.stdout, done.stderr) == (b"done\n", b"")


def test_silenced_process_shows_warnings_only(repository):
    program = WORK.replace("with console():", "from jaxvideo import progress\nwith console():")
    program = program.replace(
        "    with bar", "    progress.silence(); LOG.warning('w')\n    with bar"
    )
    done = run(program, repository, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    assert done.stderr == b"warning: w\n"
    shown, _ = on_terminal(program, repository)
    assert shown == "warning: w\r\n"


def test_time_that_is_idle_does_not_count(monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    caplog.set_level(logging.INFO, "jaxvideo")
    with progress.bar(10, "steps", done=2, every=1.0) as update:
        for done, seconds, idle in ((3, 50, False), (5, 1, False), (5, 1000, True), (7, 1, False)):
            now[0] += seconds
            update(done, idle=idle)
    assert caplog.messages == [
        "steps 5/10  2 steps/s  ETA 0:02",
        "steps 7/10  2 steps/s  ETA 0:02",
    ]


def test_track_yields_the_items():
    assert list(progress.track("abc", "letters")) == ["a", "b", "c"]
    assert list(progress.track(iter("abc"), "letters", total=3)) == ["a", "b", "c"]
    assert list(progress.track([], "letters")) == []


def test_console_formats_and_restores(capsys, caplog):
    log = logging.getLogger("jaxvideo")
    before = log.level, log.propagate, list(log.handlers)
    stream = io.StringIO()
    with progress.console(stream):
        progress.LOG.info("100 % of \udcff")
        progress.LOG.warning("w")
        progress.LOG.error(ValueError("e"))
        progress.LOG.debug("hidden")
    assert stream.getvalue() == "100 % of \\xff\n"
    assert capsys.readouterr() == ("", "warning: w\nerror: e\n")
    assert (log.level, log.propagate, log.handlers) == before
    assert not caplog.records


def test_closed_pipe_does_not_stop_the_program(repository):
    """Only stdout is closed; the program ends by itself, and stderr still works."""
    program = (
        "import sys\nfrom jaxvideo.progress import LOG, console\n"
        "with console(sys.stdout):\n"
        "    LOG.info('one'); LOG.info('two'); LOG.warning('end')\n"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = run(program, repository, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.stderr == b"warning: end\n"


def test_never_imports_jax(repository):
    run("import sys, jaxvideo.progress\nassert not {'jax', 'tqdm', 'numpy'} & set(sys.modules)",
        repository)  # fmt: skip


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_mode_follows_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        progress.write_file(tmp_path / "text", "ä")
        with progress.replacing(tmp_path / "anew") as temporary:
            temporary.unlink()
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o640))
    finally:
        os.umask(before)
    assert (tmp_path / "text").read_bytes() == "ä".encode()
    for name in ("text", "anew"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode


def test_nothing_is_left_after_an_exception(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")

    def fail(error):
        with progress.replacing(target) as temporary:
            temporary.write_text("half")
            assert target.read_text() == "old"
            raise error

    for error in (ValueError, KeyboardInterrupt, SystemExit):
        with pytest.raises(error):
            fail(error)
    assert os.listdir(tmp_path) == ["file"]
    assert target.read_text() == "old"
    with pytest.raises(OSError, match="No such file"):
        progress.write_file(tmp_path / "gone" / "file", b"")
    with pytest.raises(UnicodeEncodeError):
        progress.write_file(tmp_path / "other", "\ud800")
    assert os.listdir(tmp_path) == ["file"]


def test_replaces_and_follows_links(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    progress.write_file(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    progress.write_file(tmp_path / ("n" * 255), "long names are possible")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3723, "1:02:03")])
def test_duration(seconds, text):
    assert progress.duration(seconds) == text
