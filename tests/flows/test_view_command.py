"""`stillhouse view` as a user starts it: it serves, ends on Ctrl-C, asks for a token where others could look."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.workspace import Workspace
from tests.flows.conftest import PROJECT, CommandLine


@contextmanager
def viewing(workspace: Path, *options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The running command and the address that it printed."""
    command = [sys.executable, "-m", "flows.cli", "view", str(workspace), "--port", "0", *options]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               env=os.environ | {"COLUMNS": "200"} | environment)  # fmt: skip
    try:
        assert process.stdout
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, line + process.stdout.read()
        yield process, found[0]
    finally:
        process.kill()
        process.wait()


def test_it_shows_the_pages_until_ctrl_c(tmp_path: Path) -> None:
    Workspace.create(tmp_path / "sums", bits=0)
    with viewing(tmp_path / "sums") as (process, url):
        assert "token" not in url
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert b"Nothing has been made in this workspace yet" in answer.read()
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "Traceback" not in rest
    assert sorted(path.name for path in (tmp_path / "sums").iterdir()) == ["workspace.json"]


def test_listening_to_others_makes_up_a_token(tmp_path: Path) -> None:
    Workspace.create(tmp_path / "sums", bits=0)
    with viewing(tmp_path / "sums", "--host", "0.0.0.0") as (_, url):
        port, token = re.fullmatch(r"http://[^/]+:(\d+)/\?token=([\w-]{32})", url).groups()  # type: ignore[union-attr]
        assert _status(f"http://127.0.0.1:{port}/") == 401
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        assert opener.open(f"http://127.0.0.1:{port}/?token={token}", timeout=30).status == 200


def test_a_token_of_the_environment_counts_on_loopback_too(tmp_path: Path) -> None:
    Workspace.create(tmp_path / "sums", bits=0)
    with viewing(tmp_path / "sums", STILLHOUSE_VIEW_TOKEN="0123456789abcdef") as (_, url):
        assert url.endswith("?token=0123456789abcdef")
        assert _status(url.partition("?")[0]) == 401


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as fault:
        return fault.code


def test_what_is_wrong_is_told_in_a_line(tmp_path: Path, stillhouse: CommandLine) -> None:
    Workspace.create(tmp_path / "sums", bits=0)
    assert "no workspace here" in stillhouse("view", tmp_path / "nothing", code=1)
    assert "expected 16 at least" in stillhouse("view", tmp_path / "sums", "--token", "short", code=1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        told = stillhouse("view", tmp_path / "sums", "--port", str(taken.getsockname()[1]), code=1)
    assert "can't listen at 127.0.0.1 port" in told and "Traceback" not in told
