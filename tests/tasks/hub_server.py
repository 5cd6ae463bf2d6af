"""The hub's HTTP interface on loopback, as far as `datasets` and `huggingface_hub` use it to read data sets.

Files are answered with commit and etag, ranges are served, trees are listed page-free; a gated set answers 401 to a
caller without a token and 403 to one that has no access; a set can be cut: its Parquet files end in the middle.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

HEAD = "a" * 40
"""The commit that every set's main branch is at."""


@dataclass
class Hub:
    """Data sets by name, each a mapping of paths to bytes."""

    sets: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    """paths of all requests"""
    url: str = ""


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.served.asked.append(path)
        if found := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(*found.groups())
        elif found := re.fullmatch(
            r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?", path
        ):
            self._api(*found.groups(), body)
        else:
            self._answer(404)

    def _files(self, name: str, revision: str | None) -> dict[str, bytes] | None:
        """The set's files; None where an error was answered."""
        hub = self.served
        if name not in hub.sets:
            self._answer(401, code="RepoNotFound")  # as the hub does, which doesn't say whether it is private
        elif name in hub.gated:
            self._answer(403 if self.headers.get("Authorization") else 401, code="GatedRepo")
        elif revision not in (None, "main", HEAD):
            self._answer(404, code="RevisionNotFound")
        else:
            return hub.sets[name]
        return None

    def _file(self, name: str, revision: str, path: str) -> None:
        files = self._files(name, revision)
        if files is None:
            return
        if path not in files:
            self._answer(404, code="EntryNotFound")
            return
        data = files[path]
        start, end, status = 0, len(data), 200
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end, status = int(asked[1]), min(int(asked[2] or len(data)) + 1, len(data)), 206
        more = {
            "ETag": f'"{_sha(data)}"',
            "Accept-Ranges": "bytes",
            "Content-Range": f"bytes {start}-{end - 1}/{len(data)}",
        }
        self._answer(status, data[start:end], more, cut=name in self.served.cut and path.endswith(".parquet"))

    def _api(self, name: str, what: str | None, revision: str | None, path: str | None, body: bytes) -> None:
        files = self._files(name, revision)
        if files is None:
            return
        if what == "paths-info":
            wanted = json.loads(body)["paths"] if body.startswith(b"{") else re.findall(r"paths=([^&]+)", body.decode())
            self._json([_entry(one, files[one]) for one in map(unquote, wanted) if one in files])
        elif what == "tree":
            start = f"{path}/" if path else ""
            below = [one for one in files if one.startswith(start)]
            folders = {start + one[len(start) :].split("/")[0] for one in below if "/" in one[len(start) :]}
            if path and not below:
                self._answer(404, code="EntryNotFound")
                return
            deep = "recursive=true" in self.path.lower()
            listed = [
                {"type": "directory", "path": one, "oid": _sha(one.encode()), "size": 0} for one in sorted(folders)
            ]
            self._json(listed + [_entry(one, files[one]) for one in below if deep or "/" not in one[len(start) :]])
        else:
            self._json({"id": name, "sha": HEAD, "private": False, "gated": False, "downloads": 0, "tags": [],
                        "siblings": [{"rfilename": one} for one in files]})  # fmt: skip

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, data: bytes = b"", more: dict[str, str] | None = None, code: str | None = None,
                cut: bool = False) -> None:  # fmt: skip
        self.send_response(status)
        headers = {"Content-Length": str(len(data)), "X-Repo-Commit": HEAD} | (more or {})
        if code:
            headers |= {"X-Error-Code": code, "X-Error-Message": code}
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut and self.command != "HEAD":
            self.close_connection = True


def _entry(path: str, data: bytes) -> dict[str, object]:
    return {"type": "file", "path": path, "oid": _sha(data), "size": len(data)}


def _sha(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
