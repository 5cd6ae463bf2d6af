"""`stillhouse up` and its deployments, for real: a Prefect server and process workers on loopback.

Proves: a run is started through the API, by a schedule and by the event of a finished run, and each does what its
deployment says; what is started stands in artifacts whose keys are the same for every run; a run that is cancelled
while it generates or judges leaves no process and no container, and its workspace completes; Ctrl-C leaves nothing,
and what SIGKILL leaves is ended by the next start. Not covered: several machines (tests/faults/test_worker_faults.py).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections import Counter

import docker
import psutil
import pytest
import yaml

from flows.status import workspace_status
from flows.steps import STAGES
from sandbox.container import LABEL, OWNER
from storage.workspace import Workspace
from tests.faults.bad_server import BadServer, tokens
from tests.faults.worker_pool import PROJECT, wait_until
from tests.flows.conftest import write_replay_recipe
from tests.flows.up_house import UpHouse, environment
from tests.tasks.tiny_student import make_student, thought

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    """Running, with the replay recipe of 36 sums as the recipe of its deployments."""
    folder = tmp_path_factory.mktemp("up")
    house = UpHouse(folder, "--recipe", write_replay_recipe(folder / "recipe"), "--workspace", folder / "workspace")
    try:
        house.start()
        yield house
    finally:
        house.end()


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def check_books(folder):
    statuses = workspace_status(Workspace.open(folder))
    assert statuses and all(one.balanced and not one.pending for one in statuses)


def test_the_form_offers_what_there_is(up):
    """Stages to choose from, and a description of each parameter."""
    form = up.deployment("factory")["parameter_openapi_schema"]["properties"]
    for name in ("until", "redo_from", "only"):
        assert next(one["enum"] for one in form[name]["anyOf"] if "enum" in one) == list(STAGES)
    assert form["student"]["enum"] == ["here", "apart"]
    for name in ("factory", "verify", "student", "evaluate"):
        deployed = up.deployment(name)
        assert all(one.get("description") for one in deployed["parameter_openapi_schema"]["properties"].values()), name
        assert deployed["parameters"]["recipe"].endswith("sums.yaml")
    pools = {name: up.deployment(name)["work_pool_name"] for name in ("generate", "verify")}
    assert pools == {"generate": "gpu", "verify": "cpu"}


def test_a_stage_that_there_isnt_is_refused_before_it_runs(up):
    path = f"/deployments/{up.deployment('factory')['id']}/create_flow_run"
    with pytest.raises(AssertionError, match=r"4\d\d .*vacuum"):
        up.ask("POST", path, {"parameters": {"until": "vacuum"}})


def test_runs_through_the_api_and_their_history(up, tmp_path):
    """Two runs of one recipe: the second makes what it is told to make again; each artifact has two versions."""
    first = up.run("factory", workspace=str(tmp_path / "ws"))
    up.completed(first)
    second = up.run("factory", workspace=str(tmp_path / "ws"), redo_from="grade")
    up.completed(second)
    for key in ("sums-funnel", "sums-summary", "sums-stage-grade", "sums-report"):
        assert [one["flow_run_id"] for one in up.artifacts(key)] == [second, first], key
    assert [one["flow_run_id"] for one in up.artifacts("sums-stage-verify")] == [first]
    funnel = json.loads(up.artifacts("sums-funnel")[0]["data"])
    assert [row["step"] for row in funnel][:4] == ["ingest", "screen", "dedup", "curate"]
    verified = {row["step"]: (row["in"], row["out"]) for row in funnel if row["step"].startswith("verify.")}
    assert verified == {"verify.good": (36, 36), "verify.poor": (36, 36)}
    graded = next(row for row in json.loads(up.artifacts("sums-stage-grade")[0]["data"]) if row["step"] == "grade")
    assert (graded["shards"], graded["made now"], graded["why"]) == ("4/4", 4, "asked for (--from)")
    progress = {key: up.artifacts(key)[0] for key in ("sums-generate-good", "sums-verify-poor")}
    assert {one["data"] for one in progress.values()} == {100.0}
    assert f"{tmp_path}/ws/report.html" in up.artifacts("sums-report")[0]["data"]
    verified_alone = up.run("verify", workspace=str(tmp_path / "ws"), redo=True)
    up.completed(verified_alone)
    assert [one["flow_run_id"] for one in up.artifacts("sums-stage-verify")] == [verified_alone, first]


def test_a_run_by_schedule(up):
    """`nightly`, with a second schedule that is due every minute until its first run has begun."""
    deployed = up.deployment("nightly")
    assert deployed["global_concurrency_limit"]["limit"] == 1
    (cron,) = deployed["schedules"]
    assert (cron["schedule"]["cron"], cron["schedule"]["timezone"]) == ("0 2 * * *", "Etc/UTC")
    schedules = f"/deployments/{deployed['id']}/schedules"
    (made,) = up.ask("POST", schedules, [{"active": True, "schedule": {"interval": 60}}])
    try:
        found = wait_until(lambda: up.runs_of("nightly", scheduled=True), 400, "a scheduled run")
    finally:  # else its runs keep the worker from those of the other tests
        up.ask("DELETE", f"{schedules}/{made['id']}")
    up.completed(found[-1]["id"])
    check_books(up.folder / "workspace")


@pytest.fixture
def taught(tmp_path):
    """A recipe with a student that trains in seconds."""
    rows = [
        {"question": f"What is {n} + 1?", "ground_truth": str(n + 1), "response": [thought(n), f"So it is {n + 1}."]}
        for n in range(10, 34)
    ]
    write(tmp_path / "sums.jsonl", rows)
    recipe = {
        "name": "taught",
        "sources": [{"name": "sums", "kind": "file", "path": "sums.jsonl", "category": "math", "license": "MIT"}],
        "curate": {"filters": None, "exact_duplicates": False, "near_duplicates": None, "heldout": 0.3},
        "teachers": [{"name": "t", "engine": "replay", "path": "sums.jsonl", "samples": 2}],
        "select": {"trace": None},
        "student": {"name": "s", "model": str(make_student(tmp_path / "model")), "max_length": 128, "batch_size": 8,
                    "learning_rate": 1e-3},
        "evaluate": {"sampling": {"temperature": 0, "max_tokens": 16}},
    }  # fmt: skip
    path = tmp_path / "taught.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_a_finished_run_starts_the_student(up, taught, tmp_path):
    """By its event, which passes recipe, workspace and overrides on; a run that changes nothing starts none."""
    workspace = str(tmp_path / "ws")
    overrides = ["student.epochs=1"]
    up.completed(up.run("factory", recipe=str(taught), workspace=workspace, overrides=overrides))
    assert not Workspace.open(tmp_path / "ws").manifest.shards("train.s")
    (started,) = wait_until(lambda: up.runs_of("student"), 60, "the student's run")
    assert started["parameters"] == {"recipe": str(taught), "workspace": workspace, "overrides": overrides}
    up.completed(started["id"])
    place = Workspace.open(tmp_path / "ws")
    assert {"train.s", "evaluate.s", "report"} <= set(place.manifest.steps())
    check_books(tmp_path / "ws")
    up.completed(up.run("factory", recipe=str(taught), workspace=workspace, overrides=overrides))
    event = {"filter": {"event": {"name": ["stillhouse.run.finished"]}, "resource": {"labels": {
        "prefect.resource.name": "taught"}}}}  # fmt: skip
    told = wait_until(lambda: len(found := up.ask("POST", "/events/filter", event)["events"]) == 2 and found)
    assert [one["resource"]["stillhouse.student"] for one in told] == ["none", "due"]
    assert len(up.runs_of("student")) == 1
    up.completed(up.run("evaluate", recipe=str(taught), workspace=workspace, overrides=overrides))


def test_a_student_that_the_recipe_doesnt_have_is_an_error(up, tmp_path):
    found = up.over(up.run("student", workspace=str(tmp_path / "ws")))
    assert found["state_type"] == "FAILED" and "no part `student`" in found["state"]["message"]


@pytest.fixture
def asking(tmp_path):
    """(recipe, its teacher's endpoint): 60 questions that take half a second each, four at a time."""
    with BadServer(0, pause_s=0.5) as server:
        write(tmp_path / "sums.jsonl", [{"question": f"What is {n} + {n}?", "ground_truth": "1"} for n in range(60)])
        recipe = {
            "name": "asking",
            "sources": [{"name": "sums", "kind": "file", "path": "sums.jsonl", "category": "math", "license": "MIT"}],
            "curate": {"near_duplicates": None},
            "teachers": [{"name": "t", "engine": "openai", "model": "m", "base_url": server.url, "samples": 1,
                          "concurrency": 4}],
        }  # fmt: skip
        path = tmp_path / "asking.yaml"
        path.write_text(yaml.safe_dump(recipe))
        yield path, server


def check_answers(folder, server, twice):
    """Every question has one row, and no more than `twice` were paid for twice."""
    place = Workspace.open(folder)
    rows = [row for shard in place.shards for row in place.read("generate.t", shard, "responses").to_pylist()]
    assert len(rows) == len({row["question_id"] for row in rows}) == 60
    assert sum(row["completion_tokens"] for row in rows) == sum(map(tokens, server.delivered))
    assert sum(len(times) - 1 for times in server.delivered.values()) <= twice


def family(pid):
    """A flow run's process with all that it started."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def gone(processes):
    return not psutil.wait_procs(processes, timeout=40)[1]


def test_a_run_cancelled_while_it_generates(up, asking, tmp_path):
    recipe, server = asking
    enough = server.when_delivered(8)
    run = up.run("factory", recipe=str(recipe), workspace=str(tmp_path / "ws"))
    assert enough.wait(120)
    processes = family(int(up.flow_run(run)["infrastructure_pid"]))
    up.cancel(run)
    assert gone(processes)
    assert len(server.delivered) < 60
    assert up.over(run)["state_type"] == "CANCELLED"
    up.completed(up.run("factory", recipe=str(recipe), workspace=str(tmp_path / "ws")))
    check_answers(tmp_path / "ws", server, 2 * 4)
    check_books(tmp_path / "ws")


@pytest.fixture
def judging(tmp_path):
    """A recipe of eight programs that each think for eight seconds; skipped where no container runs."""
    try:
        client = docker.from_env()
        client.images.get("stillhouse-sandbox:core")
    except docker.errors.DockerException as fault:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no sandbox: {fault}")
    rows = [
        {"question": f"Write a program that prints {n}.", "category": "code", "language": "python", "license": "MIT",
         "test_cases": [{"kind": "stdin", "input": "", "output": f"{n}\n", "code": None}], "time_limit_s": 20,
         "response": f"```python\nimport time\ntime.sleep(8)\nprint({n})\n```"}
        for n in range(8)
    ]  # fmt: skip
    write(tmp_path / "code.jsonl", rows)
    recipe = {
        "name": "judging",
        "sources": [{"name": "code", "kind": "file", "path": "code.jsonl"}],
        "curate": {"near_duplicates": None},
        "teachers": [{"name": "t", "engine": "replay", "path": "code.jsonl", "samples": 1}],
        "runner": {"max_workers": 2},
    }
    path = tmp_path / "judging.yaml"
    path.write_text(yaml.safe_dump(recipe))
    yield path, client
    client.close()


def containers_of(client, pids):
    """Sandbox containers that one of these processes opened."""
    found = client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True)
    return [one.name for one in found if int(one.labels[OWNER].split(":")[1]) in pids]


def test_a_run_cancelled_while_it_judges(up, judging, tmp_path):
    recipe, client = judging
    run = up.run("factory", recipe=str(recipe), workspace=str(tmp_path / "ws"))
    pid = wait_until(lambda: up.flow_run(run)["infrastructure_pid"], 60, "its process")
    wait_until(lambda: containers_of(client, {int(pid)}), 120, "a container")
    processes = family(int(pid))
    pids = {one.pid for one in processes}
    up.cancel(run)
    assert gone(processes)
    wait_until(lambda: not containers_of(client, pids), 20, "no container is left")
    assert up.over(run)["state_type"] == "CANCELLED"
    up.completed(up.run("factory", recipe=str(recipe), workspace=str(tmp_path / "ws")))
    place = Workspace.open(tmp_path / "ws")
    rows = [row for shard in place.shards for row in place.read("verify.t", shard, "verdicts").to_pylist()]
    assert Counter(row["status"] for row in rows if row["verifier"] == "outcome") == {"accepted": 8}
    check_books(tmp_path / "ws")


def command(up, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments], cwd=PROJECT, env=environment(up.folder / "home"),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_deploy_changes_recipe_and_schedule(up, taught):
    done = command(up, "deploy", "--server", up.api.removesuffix("/api"), "--recipe", str(taught), "--cron",
                   "30 1 * * *", "--timezone", "Europe/Berlin")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    nightly = up.deployment("nightly")
    cron = [one["schedule"] for one in nightly["schedules"] if "cron" in one["schedule"]]
    assert [(one["cron"], one["timezone"]) for one in cron] == [("30 1 * * *", "Europe/Berlin")]
    assert nightly["parameters"]["recipe"] == str(taught)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cron", "every night"], "expected five fields"),
        (["--timezone", "Mars/Olympus"], "a name such as Europe/Berlin"),
        (["--recipe", "nowhere.yaml"], "nowhere.yaml"),
        (["--server", "http://127.0.0.1:9"], "no Prefect server answers; start one"),
    ],
)
def test_deploy_says_what_is_wrong(up, arguments, said):
    done = command(up, "deploy", "--server", up.api, *arguments)
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_slurm_worker_gives_its_allocation_back_when_idle(up):
    """The script as Slurm would run it: it reaches the server, works for the pool, and ends by itself."""
    given = {"PREFECT_API_URL": up.api, "POOL": "gpu", "IDLE_S": "5", "PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", PROJECT / "deploy" / "slurm" / "gpu-worker.sbatch"], cwd=PROJECT,
        env=environment(up.folder / "home") | given, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no run for 5 s: giving the allocation back" in done.stdout and "gpu worker: ended" in done.stdout


def test_a_second_up_and_a_taken_port_are_told(up, tmp_path):
    done = command(up, "up", "--port", str(up.port))
    assert done.returncode == 1 and "runs already (process" in done.stderr, done.stderr
    other = UpHouse(tmp_path)
    done = command(other, "up", "--port", str(up.port))
    assert done.returncode == 1 and "a Prefect server answers there already" in done.stderr, done.stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = command(other, "up", "--port", str(taken.getsockname()[1]))
        assert done.returncode == 1 and f"--port {taken.getsockname()[1] + 1}" in done.stderr, done.stderr


def test_what_sigkill_leaves_is_ended_and_ctrl_c_leaves_nothing(up, asking, tmp_path):
    """`up` is killed while a run generates, started again, and ended with Ctrl-C while the next run generates."""
    recipe, server = asking
    enough = server.when_delivered(8)
    killed = up.run("factory", recipe=str(recipe), workspace=str(tmp_path / "ws"))
    assert enough.wait(120)
    left = up.processes()
    up.kill()
    assert len([one for one in left if one.is_running()]) >= 4  # server, two workers, the flow run
    up.start()
    assert gone(left)
    assert f"ended {len(left)} processes" in up.log.read_text()
    assert up.flow_run(killed)["state_type"] == "CRASHED"

    more = server.when_delivered(len(server.delivered) + 8)
    stopped = up.run("factory", recipe=str(recipe), workspace=str(tmp_path / "ws"))
    assert more.wait(120)
    left = up.processes()
    said = up.interrupt()
    assert gone(left) and not up.processes()
    assert "cancelled; the next run goes on there" in said
    assert len(server.delivered) < 60

    up.start()
    assert up.flow_run(stopped)["state_type"] == "CANCELLED"
    up.completed(up.run("factory", recipe=str(recipe), workspace=str(tmp_path / "ws")))
    check_answers(tmp_path / "ws", server, 3 * 4)
    check_books(tmp_path / "ws")
    up.interrupt()
    assert not up.processes()
