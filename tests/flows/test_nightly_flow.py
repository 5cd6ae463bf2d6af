"""Proves the nightly flow and the commands: nights with a changed question and a changed teacher, unsolved questions
asked again and no others, the budget kept, the artifact, a webhook that is told.

With a teacher behind an endpoint on loopback, a temporary Prefect server, a webhook server on loopback.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.testing.utilities import prefect_test_harness
from typer.testing import CliRunner

from flows.cli import app
from flows.nightly import NightResult, begin_night, end_night
from flows.nightly_flow import nightly
from flows.run import Range, Wish, carry_out, plan, run_range
from storage.editions import promoted
from storage.workspace import Workspace
from tasks.step import Context

HARD = {"What is 12 + 7?": 3, "What is 14 + 7?": 99}
"""question → how many wrong answers come before the first right one"""


class Teacher(ThreadingHTTPServer):
    """Right answers, but for HARD ones at first; and a place that webhooks are sent to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: Counter[str] = Counter()
        self.told: list[dict[str, Any]] = []
        self.deaf = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, body: dict[str, Any]) -> str:
        question = body["messages"][-1]["content"]
        self.asked[question] += 1
        one, other = [int(word) for word in question.rstrip("?").split() if word.isdigit()]
        right = self.asked[question] > HARD.get(question, 0)
        return f"\\boxed{{{one + other if right else 0}}}"


class Handler(BaseHTTPRequestHandler):
    server: Teacher

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/hook":
            self.server.told.append(body)
            self.send_response(500 if self.server.deaf else 204)
            self.end_headers()
            return
        message = {"role": "assistant", "content": self.server.answer(body)}
        usage = {"prompt_tokens": 9, "completion_tokens": 5}
        data = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def teacher() -> Iterator[Teacher]:
    with Teacher() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def recipe(teacher: Teacher, tmp_path: Path) -> Path:
    """Ten sums, two samples each, two fresh samples of what is unsolved a night."""
    write(tmp_path, [f"What is {number} + 7?" for number in range(10, 20)])
    settings = {
        "name": "night",
        "sources": [{"name": "sums", "kind": "file", "path": "sums.jsonl", "category": "math", "license": "MIT",
                     "columns": {"source_id": "id"}}],
        "curate": {"filters": None, "near_duplicates": None},
        "teachers": [{"name": "far", "engine": "openai", "model": "m", "base_url": f"{teacher.url}/v1", "samples": 2,
                      "concurrency": 1}],
        "select": {"max_per_question": 1},
        "nightly": {"resample_unsolved": 2, "resample_at_most": 4,
                    "promote": {"self_test": False, "decontamination": False}},
    }  # fmt: skip
    path = tmp_path / "night.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def write(folder: Path, questions: list[str]) -> None:
    rows = [{"id": f"q{number}", "question": text, "ground_truth": str(sum(map(int, numbers(text))))}
            for number, text in enumerate(questions)]  # fmt: skip
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def numbers(text: str) -> list[str]:
    return [word for word in text.rstrip("?").split() if word.isdigit()]


def night(recipe: Path, workspace: Path, *overrides: str) -> NightResult:
    """A night in this process, without Prefect."""
    begun = begin_night(recipe, workspace, overrides)
    context = Context(begun.place, "test")

    def submit(batch: Sequence[Range]) -> None:
        for one in batch:
            run_range(context, one)

    carry_out(plan(begun.loaded, begun.place, Wish()), submit)
    return end_night(begun, "test")


def test_nights_ask_for_what_is_new_and_what_is_unsolved_within_the_budget(teacher, recipe, tmp_path):
    workspace = tmp_path / "ws"
    first = night(recipe, workspace)
    assert (first.edition.counts["examples"], first.promoted) == (9, True)
    assert teacher.asked == {f"What is {number} + 7?": 2 for number in range(10, 20)} | dict.fromkeys(HARD, 4)

    teacher.asked.clear()
    write(tmp_path, ["What is 10 plus 7?", *(f"What is {number} + 7?" for number in range(11, 20))])
    second = night(recipe, workspace)
    assert teacher.asked == {"What is 10 plus 7?": 2, "What is 14 + 7?": 2}  # the new one, and what nobody solved
    changed = {"question changed": 1}
    assert second.edition.diff == {"against": 1, "changes": {"added": changed, "gone": changed}} and second.promoted

    teacher.asked.clear()
    settings = yaml.safe_load(recipe.read_text())
    settings["teachers"][0]["revision"] = "next"
    recipe.write_text(yaml.safe_dump(settings))
    third = night(recipe, workspace, "budget.requests=34")
    assert sum(teacher.asked.values()) == 34 - 28
    assert not third.promoted and "size" in [line.partition(":")[0] for line in third.faults()]
    fourth = night(recipe, workspace)
    assert teacher.asked["What is 11 + 7?"] == 2 and fourth.promoted
    added = Counter(third.edition.diff["changes"]["added"]) + Counter(fourth.edition.diff["changes"]["added"])
    assert set(added) <= {"new model revision", "new response"} and added["new model revision"]


def command(*arguments: Any, code: int = 0) -> str:
    """What a command prints, run in this process."""
    done = CliRunner().invoke(app, [str(one) for one in arguments], env={"COLUMNS": "200"})
    assert done.exit_code == code, f"{done.output}{done.exception}"
    return done.output


def test_the_commands(stillhouse, teacher, recipe, tmp_path):
    workspace = tmp_path / "ws"
    text = stillhouse("nightly", recipe, "--workspace", workspace, "--budget", "requests=100")
    assert "edition 1: 9 examples (9 added); promoted" in text
    write(tmp_path, ["What is 10 plus 7?", *(f"What is {number} + 7?" for number in range(11, 20))])
    night(recipe, workspace, "nightly.promote.self_test=true")
    listed = command("editions", workspace)
    assert "held: self-test" in listed and "edition 2 is not promoted: self-test: the recipe sets no limit" in listed
    shown = command("editions", workspace, "2", "--diff")
    assert "question changed" in shown and "sums:q0" in shown
    command("editions", workspace, "--promoted", "--copy-to", tmp_path / "out")
    assert list((tmp_path / "out" / "huggingface" / "data").glob("train-*.parquet"))
    assert "shards became" in command("reshard", workspace)
    assert "all as they were written" in command("fsck", workspace)
    assert "bytes freed" in command("gc", workspace)
    before = dict(teacher.asked)
    assert "nothing to do" in command("run", recipe, "--workspace", workspace, *resampled(workspace))
    assert teacher.asked == before
    place = Workspace.open(workspace)
    part = next(part for shard in place.shards for part in place.need("grade", shard).data())
    path = workspace / part.path
    path.write_bytes(path.read_bytes()[:-1])
    assert "grade shard" in command("fsck", workspace, code=1)
    assert "the next run makes it again" in command("fsck", workspace, "--repair", code=3)


def resampled(workspace: Path) -> list[str]:
    """The overrides that the last night added."""
    kept = yaml.safe_load((workspace / "recipe.yaml").read_text())["teachers"][0]
    names = ("until", "samples_per_round", "max_samples")
    return [part for name in names for part in ("--set", f"teachers.far.{name}={kept[name]}")]


def test_the_flow_tells_a_webhook_and_leaves_an_artifact(teacher, recipe, tmp_path, caplog):
    workspace = tmp_path / "ws"
    wanted = ArtifactFilter(key=ArtifactFilterKey(any_=["night-edition"]))
    with prefect_test_harness(server_startup_timeout=90):
        Webhook(url=f"{teacher.url}/hook").save("team")
        result, pending = nightly(str(recipe), str(workspace), ["nightly.notify=webhook/team"])
        teacher.deaf = True  # a message that can't be sent costs no edition
        strict = "nightly.promote.self_test=true"
        again, _ = nightly(str(recipe), str(workspace), ["nightly.notify=webhook/team", strict])
        third, _ = nightly(str(recipe), str(workspace), ["nightly.notify=webhook/nobody"])
        with get_client(sync_client=True) as client:
            artifacts = client.read_artifacts(artifact_filter=wanted)
    assert result.promoted and result.fresh and not pending
    assert not again.promoted and third.promoted
    assert [(one["edition"], one["promoted"]) for one in teacher.told] == [(1, True), (again.edition.number, False)]
    assert teacher.told[0]["changes"] == {"added": {"new question": 9}} and teacher.told[0]["examples"] == 9
    assert "self-test: the recipe sets no limit" in teacher.told[1]["why_not"][0]
    assert len(artifacts) == 3 and any("| self-test | **no** |" in one.data for one in artifacts)
    assert "webhook/team: the message was not sent" in caplog.text
    assert "webhook/nobody: the message was not sent" in caplog.text
    assert promoted(Workspace.open(workspace))[0] == 1
