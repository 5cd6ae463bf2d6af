"""Each test tries one way to see or change what one may not, over real requests."""

from __future__ import annotations

import http.client
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest

from storage.workspace import Workspace
from tasks.viewer.guard import COOKIE, HEADERS, is_loopback
from tests.tasks.viewer.conftest import served
from tests.tasks.viewer.made import PROOF_ID

TOKEN = "correct-horse-battery"
PATHS = ["/", "/questions", f"/question/{PROOF_ID}", "/responses", "/verdicts", "/drops", f"/find?id={PROOF_ID[:9]}"]


def ask(url: str, path: str, method: str = "GET", body: str | None = None, **headers: str) -> http.client.HTTPResponse:
    """The answer, its body read already into `.text`."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    answer.text = answer.read().decode()  # type: ignore[attr-defined]
    connection.close()
    return answer


@pytest.fixture(scope="module")
def locked(made: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(made, tmp_path_factory.mktemp("spill"), TOKEN) as url:
        yield url


@pytest.mark.parametrize("path", [*PATHS, "/nope", "/questions?category=x", "/static/page.css"])
def test_every_answer_has_the_headers(url: str, path: str) -> None:
    answer = ask(url, path)
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "script-src" not in policy


@pytest.mark.parametrize("path", PATHS)
def test_without_the_token_a_page_says_nothing(locked: str, path: str) -> None:
    for headers in ({}, {"Cookie": f"{COOKIE}=wrong-horse-battery-x"}, {"Cookie": f"{COOKIE}="}):
        answer = ask(locked, path, **headers)
        assert answer.status == 401
        assert "What is" not in answer.text and "near_duplicate" not in answer.text
    assert ask(locked, path, Cookie=f"{COOKIE}={TOKEN}").status in (200, 303)


def test_the_token_goes_from_the_address_into_a_cookie(locked: str) -> None:
    answer = ask(locked, f"/drops?rule=near_duplicate&token={TOKEN}")
    assert (answer.status, answer.headers["location"]) == (303, "/drops?rule=near_duplicate")
    assert "HttpOnly" in answer.headers["set-cookie"] and "SameSite=lax" in answer.headers["set-cookie"]
    assert ask(locked, "/?token=wrong").status == 401
    assert "set-cookie" not in ask(locked, "/?token=wrong").headers


@pytest.mark.parametrize(
    "target", ["//evil.example/", "https://evil.example/", "/\\evil.example", "javascript:alert(1)"]
)
def test_signing_in_leads_nowhere_else(locked: str, target: str) -> None:
    answer = ask(locked, "/token", "POST", f"token={TOKEN}&next={target}")
    assert (answer.status, answer.headers["location"]) == (303, "/")


def test_another_hosts_name_is_refused_on_loopback(url: str) -> None:
    for name in ("evil.example", "evil.example:80", "localhost.evil.example", "", "127.0.0.1.evil.example"):
        assert ask(url, "/", Host=name).status == 421
    for name in ("localhost", "127.0.0.1:9", "[::1]:8484"):
        assert ask(url, "/", Host=name).status == 200


@pytest.mark.parametrize("path", ["/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
                                  "/question/../../workspace.json", "/question/..%2F..%2Fworkspace.json",
                                  "/workspace.json", "/static/viewer.css"])  # fmt: skip
def test_no_path_of_an_address_is_opened(url: str, path: str) -> None:
    assert ask(url, path).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_only_reading_is_answered(url: str, method: str) -> None:
    assert ask(url, "/questions", method, "x=1").status == 405


@pytest.mark.parametrize("path", ["/questions?after=..%2F..", "/find?id=zz", "/find?id=abcd&skip=-1",
                                  "/drops?after=a~b", f"/responses?after={PROOF_ID}", "/questions?after=a&before=b",
                                  "/drops?after=nope~00~question~rule~id"])  # fmt: skip
def test_a_wrong_address_is_a_page_that_says_so(url: str, path: str) -> None:
    answer = ask(url, path)
    assert answer.status == 400
    assert "can’t be answered" in answer.text


@pytest.mark.parametrize(("host", "own"), [("127.0.0.1", True), ("127.8.8.8", True), ("localhost", True), ("::1", True),
                                           ("[::1]", True), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False),
                                           ("localhost.example", False)])  # fmt: skip
def test_loopback_is_told_by_its_looks(host: str, own: bool) -> None:
    assert is_loopback(host) is own


def test_a_part_that_is_gone_is_told(made: Workspace, tmp_path: Path) -> None:
    shutil.copytree(made.root, tmp_path / "copy")
    workspace = Workspace.open(tmp_path / "copy")
    for path in (tmp_path / "copy" / "tables" / "responses").rglob("*.parquet"):
        path.unlink()
    with served(workspace, tmp_path / "spill") as url:
        answer = ask(url, "/responses")
        assert answer.status == 503
        assert "load the page again" in answer.text
        assert "Traceback" not in answer.text


def test_a_question_of_an_older_version_has_its_page(made: Workspace, tmp_path: Path) -> None:
    """Columns that later versions have added are missing in its files."""
    shutil.copytree(made.root, tmp_path / "copy")
    for path in (tmp_path / "copy" / "tables" / "grades").rglob("*.parquet"):
        pq.write_table(pq.read_table(path, partitioning=None).drop_columns(["basis", "votes", "majority_answer"]), path)
    with served(Workspace.open(tmp_path / "copy"), tmp_path / "spill") as url:
        answer = ask(url, f"/question/{PROOF_ID}")
        assert answer.status == 200
        assert "1 of 2" in answer.text
