"""A file server on the loopback interface that can misbehave in the ways that hosts do."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Serves `files` by path; `faults` maps a path to what goes wrong there.

    Faults: ["status", N], ["redirect", PATH], ["page"], ["slow", event], and ["cut", bytes, times]
    with, optionally, a status that all later requests get.
    `requests` lists `(path, Range header)`. `headers` are more headers of an answer, by path;
    `errors` are error codes of the Hugging Face Hub.
    """

    daemon_threads = True
    # Clients that stop reading are part of the tests.
    handle_error = lambda self, request, address: None  # noqa: E731

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.headers: dict[str, dict[str, str]] = {}
        self.errors: dict[str, str] = {}
        self.etags = True

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.requests.append((self.path, wanted))
        if code := self.server.errors.get(self.path):
            return self._answer(404, b"", {"X-Error-Code": code})
        kind, *how = self.server.faults.get(self.path, [""])
        if kind == "status":
            return self._answer(how[0], b"no such thing", {})
        if kind == "redirect":
            return self._answer(302, b"", {"Location": self.server.url(how[0])})
        if kind == "page":
            return self._answer(200, b"<html>quota</html>", {"Content-Type": "text/html"})
        content = self.server.files.get(self.path)
        if content is None:
            return self._answer(404, b"not found", {})
        if kind == "slow":
            how[0].wait(10)
        headers = {"Content-Type": "application/octet-stream"}
        headers |= self.server.headers.get(self.path, {})
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        if self.server.etags:
            headers["ETag"] = tag
        start, status = 0, 200
        same = self.headers.get("If-Range", tag) == tag
        if wanted and same and wanted.startswith("bytes="):
            start = int(wanted[6:].rstrip("-"))
            if start >= len(content):
                return self._answer(416, b"", {})
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        sent = content[start:]
        if kind == "cut" and how[1] == 0 and len(how) == 3:
            return self._answer(how[2], b"", {})
        if kind == "cut" and how[1] > 0:
            how[1] -= 1
            self.server.faults[self.path] = [kind, *how]
            sent = sent[: how[0]]
        self._answer(status, sent, headers, length=len(content) - start)
        if len(sent) < len(content) - start:
            self.close_connection = True
        return None

    def _answer(self, status, body, headers, length=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextlib.contextmanager
def serving():
    """Runs a server inside the block."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
