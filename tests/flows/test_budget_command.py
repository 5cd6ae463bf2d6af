"""A budget from the command line over an endpoint on loopback: exit status 3, which cap, going on with a larger one;
and `status`, which counts what a killed run left in its logs.
"""

from __future__ import annotations

import json

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.testing.utilities import prefect_test_harness

from flows.factory import factory
from flows.inspect import kept_recipe
from flows.run import Wish, plan
from flows.status import recipe_status
from storage.workspace import Workspace
from tests.faults.bad_server import BadServer


@pytest.fixture
def server():
    with BadServer(0.0) as server:
        yield server


def recipe(server, name="far", **more):
    return {
        "name": "budget",
        "sources": [{"name": "sums", "kind": "file", "path": "sums.jsonl", "category": "math", "license": "MIT"}],
        "curate": {"near_duplicates": None},
        "teachers": [
            {"name": name, "engine": "openai", "model": "m", "base_url": server.url, "samples": 2, "attempts": 1,
             "price_per_million_tokens": 1.5},
        ],
    } | more  # fmt: skip


def write_sums(folder):
    rows = [json.dumps({"question": f"What is {one} + 7?", "ground_truth": str(one + 7)}) for one in range(30)]
    (folder / "sums.jsonl").write_text("\n".join(rows))


def test_a_run_with_a_budget_ends_with_3_and_a_larger_one_goes_on(stillhouse, server, tmp_path):
    write_sums(tmp_path)
    path, workspace = tmp_path / "budget.yaml", tmp_path / "workspace"
    path.write_text(yaml.safe_dump(recipe(server)))
    run = ("run", path, "--workspace", workspace)

    first = stillhouse(*run, "--until", "grade", "--budget", "requests=25", code=3)
    assert "generate.far stopped: budget of all teachers: 25 of 25 requests: 35 requests not asked" in first
    assert "pending: generate.far 35, verify.far 35, grade 18" in first  # 12 questions have both answers, one has one
    assert len(server.asked) == 25
    again = stillhouse(*run, "--until", "generate", "--budget", "requests=25", code=3)
    assert "25 of 25 requests: 35 requests not asked" in again and len(server.asked) == 25
    shown = stillhouse("status", workspace)
    assert "balanced" in shown and "NOT" not in shown

    last = stillhouse(*run, "--budget", "requests=100,money=5")
    assert "stopped" not in last and len(server.asked) == 60 and set(server.asked.values()) == {1}
    assert "nothing to do" in stillhouse(*run)
    assert "expected NAME=NUMBER" in stillhouse(*run, "--budget", "dollars=5", code=1)


def test_status_counts_what_unfinished_shards_hold(make_house, server, crash_after):
    house = make_house(teachers=recipe(server)["teachers"])
    write_sums(house.base)
    house.run("curate")
    with crash_after(7):
        house.run("generate")
    place = Workspace.open(house.root)
    statuses = {one.step: one for one in recipe_status(plan(kept_recipe(place), place, Wish()))}
    assert statuses["generate.far"].unfinished == 7
    assert statuses["generate.far"].todo_because == ("first run", "7 responses are there and not committed")
    assert statuses["curate"].unfinished == 0
    house.run("generate")
    statuses = {one.step: one for one in recipe_status(plan(kept_recipe(place), place, Wish()))}
    assert statuses["generate.far"].unfinished == 0 and statuses["generate.far"].todo_because == ()


def test_the_flow_takes_a_budget_and_shows_its_progress(server, tmp_path):
    write_sums(tmp_path)
    path = tmp_path / "budget.yaml"
    path.write_text(yaml.safe_dump(recipe(server, name="far_off")))
    with prefect_test_harness():
        pending = factory(str(path), str(tmp_path / "workspace"), until="generate", budget={"requests": 15})
        with get_client(sync_client=True) as client:
            [artifact] = client.read_artifacts(
                artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["budget-generate-far-off"]))
            )
            [summary] = client.read_artifacts(
                artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["budget-summary"]))
            )
    assert pending == {"generate.far_off": 45} and len(server.asked) == 15
    assert artifact.data == 25.0 and "teacher far_off, done 15" in artifact.description
    assert "generate.far_off stopped: budget of all teachers: 15 of 15 requests: 45 requests not asked" in summary.data
