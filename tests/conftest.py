"""Fixtures for all tests: small real tables, and recipes that run in this process, without Prefect."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from flows.recipe import check_recipe
from flows.run import Plan, Range, StepDone, Wish, carry_out, open_workspace, plan, run_range
from storage import objects
from storage.manifest import Inputs
from storage.place import place
from storage.schemas import TABLES, is_volatile
from storage.workspace import Workspace
from tasks.generate_shard import Shard
from tasks.step import Context, Step, Work
from tasks.teachers.teacher import Reply

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@dataclass
class House:
    """A recipe beside its files, and a workspace; `run` carries the recipe out here and now."""

    base: Path
    recipe: dict[str, Any]
    root: Path
    bits: int = 0

    @property
    def workspace(self) -> Workspace:
        return Workspace.create(self.root, bits=self.bits)

    def plan(self, until: str | None = None, *, only: str | None = None, redo_from: str | None = None) -> Plan:
        workspace = self.workspace
        loaded = check_recipe(self.recipe, self.base)
        return plan(loaded, open_workspace(loaded, workspace.root), Wish(until, redo_from, only))

    def run(self, until: str | None = None, *, only: str | None = None, redo_from: str | None = None) -> list[StepDone]:
        todo = self.plan(until, only=only, redo_from=redo_from)
        context = Context(todo.workspace, "test")

        def submit(batch: Sequence[Range]) -> None:
            for one in batch:
                run_range(context, one)

        return carry_out(todo, submit)

    def step(self, key: str) -> tuple[Context, Step, list[Work]]:
        """A step with all of its work, to be run by hand."""
        todo = self.plan()
        step = next(step for step in todo.steps if step.key == key)
        return Context(todo.workspace, "test"), step, todo.pending(step) or []

    def rows(self, step: str, table: str) -> list[dict[str, Any]]:
        """All rows of a step in the order of their key, without volatile columns, whatever the number of shards."""
        workspace = self.workspace
        found = pa.concat_tables(workspace.read(step, shard, table) for shard in workspace.shards)
        found = found.sort_by([(name, "ascending") for name in TABLES[table].key])
        return found.drop([field.name for field in found.schema if is_volatile(field)]).to_pylist()

    def ledger(self, step: str) -> list[dict[str, Any]]:
        workspace = self.workspace
        found = pa.concat_tables(workspace.ledger(step, shard) for shard in workspace.shards).drop(["run_id"])
        return sorted(found.to_pylist(), key=lambda row: (row["unit_id"], row["rule"], row["evidence"]))

    def rules(self, step: str) -> dict[str, int]:
        """How many units of a step each rule dropped."""
        found: dict[str, int] = {}
        for row in self.ledger(step):
            found[row["rule"]] = found.get(row["rule"], 0) + 1
        return found

    def write(self, name: str, rows: Sequence[dict[str, Any]]) -> Path:
        path = self.base / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    def copy(self, root: Path, *, bits: int | None = None) -> House:
        """The same recipe with a workspace of its own, empty."""
        return House(self.base, self.recipe, root, self.bits if bits is None else bits)


def source(name: str = "sums", path: Any = "sums.jsonl", **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": "file", "path": path, "category": "math", "license": "MIT"} | more


NOTHING = {"filters": None, "exact_duplicates": False, "near_duplicates": None}
"""curation that lets everything through"""


@pytest.fixture
def make_house(tmp_path: Path) -> Callable[..., House]:
    """A house with the given sources (default: the file sums.jsonl) and parts of the recipe."""

    def make(*sources: dict[str, Any], bits: int = 0, **parts: Any) -> House:
        base = tmp_path / "recipe"
        base.mkdir(exist_ok=True)
        recipe = {"name": "t", "sources": list(sources) or [source()], "curate": NOTHING} | parts
        return House(base, recipe, tmp_path / "workspace", bits)

    return make


@pytest.fixture
def make_source() -> Callable[..., dict[str, Any]]:
    return source


@pytest.fixture
def crash_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AbstractContextManager[list[Reply]]]:
    """`with crash_after(30) as taken`: a generate step dies when it has taken so many replies."""

    @contextmanager
    def crashing(replies: int) -> Iterator[list[Reply]]:
        real, taken = Shard.take, []

        def take(shard: Shard, reply: Reply) -> None:
            real(shard, reply)
            taken.append(reply)
            if len(taken) == replies:
                raise RuntimeError("crash")

        with monkeypatch.context() as patch:
            patch.setattr(Shard, "take", take)
            with pytest.raises(RuntimeError, match="crash"):
                yield taken

    return crashing


@dataclass
class S3:
    """A bucket on a real S3 server on loopback (tests/s3_server.py)."""

    endpoint: str
    bucket: str = ""

    def place(self, path: str = "ws") -> Path:
        return place(f"s3://{self.bucket}/{path}")

    def fault(self, do: str, method: str, match: str, times: int = 1) -> None:
        """Have the next requests fail, as the server's docstring says."""
        fault = {"do": do, "method": method, "bucket": self.bucket, "match": match, "times": times}
        request = urllib.request.Request(f"{self.endpoint}/_faults", json.dumps(fault).encode(), method="POST")
        with urllib.request.urlopen(request):
            pass

    def heal(self) -> None:
        """No more faults."""
        with urllib.request.urlopen(urllib.request.Request(f"{self.endpoint}/_faults", method="DELETE")):
            pass

    def seen(self) -> dict[str, int]:
        """How many requests of each method, and faults of each kind, there were."""
        with urllib.request.urlopen(f"{self.endpoint}/_requests") as answer:
            return Counter(json.loads(answer.read()))

    def held(self) -> list[str]:
        """All objects of the bucket."""
        return sorted(objects.tree(place(f"s3://{self.bucket}")))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    program = Path(__file__).with_name("s3_server.py")
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True) as server:
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


@pytest.fixture
def s3(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3:
    """A fresh bucket, with the environment that a client of it has."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server, "AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests",
        "AWS_DEFAULT_REGION": "us-east-1", "STILLHOUSE_CACHE": str(tmp_path / "cache"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    found = S3(s3_server, f"bucket-{secrets.token_hex(6)}")
    objects.file_system(found.place()).mkdir(found.bucket)
    return found


@pytest.fixture
def shared() -> Path:
    if not SHARED.exists():
        pytest.skip("../shared/data isn't here")
    return SHARED


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "ws", bits=1)


@pytest.fixture
def inputs() -> Inputs:
    return Inputs("1", {"a": 1}, {"ingest": "abc"}, {"f.jsonl": "123"})
