"""Evaluate: the student before and after training on held-out questions and benchmarks, by the teachers' verifiers.

The answers and verdicts lie in a workspace of their own, in the same tables, with the teachers `before` and `after`,
and with `greedy` also `before_greedy` and `after_greedy`:

    students/<name>/eval/

Accuracy = mean over questions of passes / n; capability at k = mean of the unbiased pass@k (arXiv 2505.14216).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, TypeAdapter, model_validator

from storage.fingerprint import hash_json
from storage.manifest import Book, Inputs
from storage.schemas import CURATED
from storage.workspace import ALL, Workspace
from tasks.errors import BadSetting, MissingInput
from tasks.evaluate_benchmarks import Benchmarks, benchmark_files, read_benchmarks
from tasks.evaluate_measure import measure
from tasks.generate import generate_step
from tasks.grade import GradeSettings, grade_steps
from tasks.settings import CategoryName, CategoryOrDefault, Settings
from tasks.sources import Source
from tasks.step import Context, Heads, Progress, Step, Work, pending_work
from tasks.teachers.revision import resolve_revision
from tasks.teachers.settings import Prompt, Sampling, TeacherBase, TeacherSettings
from tasks.train import StudentSettings, base_model, student_model
from tasks.verifiers.bench import static_versions
from tasks.verifiers.settings import VerifySettings
from tasks.verify import verify_step

VERSION = "3"
SIDES = ("before", "after")


class EvaluateSettings(Settings):
    samples: int = Field(default=1, ge=1)
    """Answers per held-out question; pass@k is reported for every k up to this that is a power of two."""
    prompts: dict[CategoryOrDefault, Prompt] = {}
    """How the student is asked, by category or `default`; the same as in `export`, if it was trained with one."""
    sampling: Sampling = Sampling(temperature=0.0, max_tokens=512)
    sampling_by_category: dict[CategoryName, Sampling] = {}
    greedy: bool = False
    """Ask once more without randomness, one answer a question, where `sampling` draws."""
    base: bool = True
    """Measure the student before training too; off, only the trained one is asked."""
    benchmarks: tuple[Source, ...] = ()
    """Named files read like `sources`, each asked and reported by itself."""
    engine: Literal["transformers", "vllm", "openai"] = "transformers"
    """vllm: Stillhouse starts the servers. openai: servers of yours, named in `served`."""
    engine_options: dict[str, Any] = {}
    """Further settings of that engine, as under `teachers`: {gpus: 1, flags: {…}}."""
    served: dict[Literal["before", "after"], dict[str, Any]] = {}
    """openai: `model`, `base_url` and other settings of an openai teacher, for each side."""
    watch: int | None = Field(default=None, ge=1)
    """Also measure the base model, the checkpoints of `student.keep_checkpoints` and what each stage left: likelihood
    of so many held-out teacher texts, and accuracy, side by side (teacher hacking). Null: no, since each costs an
    evaluation."""
    lm_eval: tuple[str, ...] = ()
    """A command of lm-eval's to run on the trained student, `{model}` and `{out}` filled in; empty: none."""
    dtype: str = "auto"
    device: str = "auto"
    batch_size: int = Field(default=32, ge=1)

    @model_validator(mode="after")
    def _askable(self) -> EvaluateSettings:
        names = [one.name for one in self.benchmarks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"benchmarks: the name {twice[0]} is used twice; every one needs its own")
        sides = ("before", "after") if self.base else ("after",)
        missing = [side for side in sides if side not in self.served]
        if self.engine == "openai" and missing:
            raise ValueError(f"engine openai asks servers of yours: set served.{missing[0]}: {{model: …, base_url: …}}")
        if self.watch and self.engine != "transformers":
            raise ValueError("watch reads weights here, by the engine transformers; leave `watch` or `engine` out")
        for side in sides:
            self.asked(side, "model")  # wrong options are told now, not after the training
        return self

    def sides(self) -> tuple[str, ...]:
        """Names of all that is asked, in the inner workspace."""
        plain = ("before", "after") if self.base else ("after",)
        return (*plain, *(f"{side}_greedy" for side in plain)) if self.greedy else plain

    def asked(self, side: str, model: str) -> TeacherBase:
        """A side as a teacher; `model`: folder or name of its weights. Raises ValueError for options it hasn't."""
        whose = side.removesuffix("_greedy")
        own: dict[str, Any] = {"name": side, "engine": self.engine, "model": model, "samples": self.samples}
        own |= self.model_dump(include={"prompts", "sampling", "sampling_by_category"})
        if self.engine == "transformers":
            own |= self.model_dump(include={"dtype", "device", "batch_size"})
        own |= self.engine_options
        if self.engine == "openai":
            own |= self.served[whose]  # type: ignore[index]
        if side != whose:
            by_category = {name: one | {"temperature": 0.0} for name, one in own["sampling_by_category"].items()}
            own |= {"samples": 1, "sampling": own["sampling"] | {"temperature": 0.0},
                    "sampling_by_category": by_category}  # fmt: skip
        teacher: TeacherBase = TypeAdapter(TeacherSettings).validate_python(own)
        return teacher


def eval_folder(workspace: Workspace, student: str) -> Path:
    """The place of the inner workspace: where the outer one lies, so that other machines find the answers."""
    return workspace.root / "students" / student / "eval"


def evaluate_step(settings: EvaluateSettings, student: StudentSettings, verify: VerifySettings, grade: GradeSettings,
                  *, workers: int, base: Path | None = None) -> Step:  # fmt: skip
    """The step `evaluate.<student>`; `base`: the recipe's folder, where relative paths start."""
    where = base or Path()
    described = {
        "evaluate": settings.as_json(exclude={"batch_size", "device", "watch", "lm_eval"}),
        "verify": verify.judging(),
        "versions": static_versions(verify),
        "weights": resolve_revision(student.model, student.revision),
    }

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        for one in work:
            _evaluate(context, step, one, settings, student, verify, grade, workers, where)

    reads = ("curate", "grade", f"train.{student.name}")
    return Step(f"evaluate.{student.name}", "evaluate", "one", VERSION, described, reads, run,
                partial(benchmark_files, settings.benchmarks, where), exclusive=True)  # fmt: skip


def _evaluate(context: Context, step: Step, work: Work, settings: EvaluateSettings, student: StudentSettings,
              verify: VerifySettings, grade: GradeSettings, workers: int, base: Path) -> None:  # fmt: skip
    workspace = context.workspace
    transaction = context.begin(step, work)
    inner = Workspace.create(eval_folder(workspace, student.name), bits=workspace.bits)
    benchmarks = read_benchmarks(context, step, settings.benchmarks, base)
    heldout, in_training = _take_questions(context, inner, benchmarks)
    if not heldout and not benchmarks.questions:
        raise BadSetting("no held-out questions to evaluate on; set `curate.heldout` to a share such as 0.05")
    trained = str(student_model(workspace, student.name))
    sides = settings.sides()
    teachers = [settings.asked(side, trained if side.startswith("after") else base_model(student)) for side in sides]
    steps = [generate_step(teacher, base) for teacher in teachers]
    steps += [verify_step(verify, teacher, workers=workers) for teacher in teachers]
    # A student repairs no reference, and its own majority is none either.
    steps += grade_steps(grade.model_copy(update={"repair": False, "vote_from": None}), sides)
    inner_context = replace(context, workspace=inner, progress=_Inner(context.progress, step.key))
    fresh = run_all(inner_context, steps)
    pairs = [("before", "after"), ("before_greedy", "after_greedy")]
    metrics = measure(workspace, inner, settings.samples, sides, heldout, benchmarks.members,
                      pairs=[pair for pair in pairs if set(pair) <= set(sides)])  # fmt: skip
    rates = metrics.pop("rates")
    for name, ids in benchmarks.members.items():
        metrics["benchmarks"][name]["in_training"] = len(ids & in_training)
    graded = len({key for found in rates.values() for key in found} | _graded(inner))
    asked = len(heldout | benchmarks.questions.keys())
    books = [Book("question", asked, graded, {}, asked - graded)]
    if settings.benchmarks:
        kept = benchmarks.records - len(benchmarks.ledger)
        books.append(Book("record", benchmarks.records, kept, benchmarks.drops))
    before = workspace.head(step.key, ALL)
    speed = (before.extra.get("speed", {}) if before else {}) | fresh
    transaction.commit_result(books, content=hash_json(metrics), ledger=benchmarks.ledger,
                              extra={"metrics": metrics, "rates": rates, "speed": speed})  # fmt: skip


def _graded(inner: Workspace) -> set[str]:
    return {
        row["question_id"]
        for shard in inner.shards
        for row in inner.read("grade", shard, "grades", ["question_id"]).to_pylist()
    }


def _tokens(workspace: Workspace, key: str) -> int:
    """Tokens of all responses that a generate step holds."""
    there = [shard for shard in workspace.shards if workspace.head(key, shard)]
    tables = [workspace.read(key, shard, "responses", ["completion_tokens"]) for shard in there]
    return sum(pc.sum(table["completion_tokens"]).as_py() or 0 for table in tables)


class _Inner:
    """Progress of the inner steps, under the name of the evaluation."""

    def __init__(self, outer: Progress, name: str) -> None:
        self._outer, self._name = outer, name

    def expect(self, step: str, units: int) -> None:
        self._outer.expect(f"{self._name}: {step}", units)

    def advance(self, step: str, units: int = 1) -> None:
        self._outer.advance(f"{self._name}: {step}", units)


def _take_questions(context: Context, inner: Workspace, benchmarks: Benchmarks) -> tuple[set[str], set[str]]:
    """Commit what is asked as the inner workspace's `curated`; return the ids of the held-out and of the trained ones.

    A question that is held out and on a benchmark is asked once.
    """
    heldout: set[str] = set()
    trained: set[str] = set()
    by_shard: dict[str, list[dict[str, Any]]] = {shard: [] for shard in inner.shards}
    for row in benchmarks.questions.values():
        by_shard[inner.shard_of(row["question_id"])].append(row)
    for shard in inner.shards:
        curated = context.workspace.read("curate", shard, "curated")
        own = curated.filter(pc.field("split") == "heldout")
        ids = {row["question_id"] for row in own.select(["question_id"]).to_pylist()}
        heldout |= ids
        trained |= {row["question_id"] for row in curated.select(["question_id"]).to_pylist()} - ids
        more = [row for row in by_shard[shard] if row["question_id"] not in ids]
        asked = pa.concat_tables([own, pa.Table.from_pylist(more, schema=CURATED)]) if more else own
        commit_questions(context, inner, shard, asked, VERSION, {"benchmarks": hash_json(more)} if more else {})
    return heldout, trained


def commit_questions(context: Context, inner: Workspace, shard: str, asked: pa.Table, version: str,
                     settings: dict[str, Any]) -> None:  # fmt: skip
    """Commit `asked` as the inner workspace's `curated`, unless it was made from the same slice and settings."""
    inputs = Inputs(version, settings, {"curate": context.workspace.need("curate", shard).content})
    known = inner.head("curate", shard)
    if known is None or known.fingerprint != inputs.fingerprint:
        book = Book("question", asked.num_rows, asked.num_rows)
        inner.begin("curate", shard, inputs, run_id=context.run_id).commit("curated", asked, [], [book])


def run_all(context: Context, steps: Sequence[Step]) -> dict[str, float]:
    """Make what is missing, step by step, in this process; returns the tokens per second of each side that was asked
    for something, the loading of its model included."""
    curate = Step("curate", "curate", "shard", VERSION, {}, (), lambda *_: None)
    by_key = {step.key: step for step in (curate, *steps)}
    speeds: dict[str, float] = {}
    for step in steps:
        work = pending_work(step, by_key, Heads(context.workspace), step.files(context.workspace.cache))
        if work is None:
            raise MissingInput(f"evaluation: {step.key} lacks the output of {', '.join(step.reads)}")
        if not work:
            continue
        asks = step.key.startswith("generate.")
        before, started = _tokens(context.workspace, step.key) if asks else 0, time.monotonic()
        step.run(context, step, work)
        passed = time.monotonic() - started
        if asks and (new := _tokens(context.workspace, step.key) - before) > 0:
            speeds[step.key.removeprefix("generate.")] = round(new / passed, 2)
    return speeds


def evaluated(workspace: Workspace, student: str) -> dict[str, Any] | None:
    """The committed metrics, or None."""
    head = workspace.head(f"evaluate.{student}", ALL)
    return head.extra["metrics"] | {"speed": head.extra.get("speed", {})} if head else None


def question_rates(workspace: Workspace, student: str, side: str = "after") -> dict[str, tuple[int, int]]:
    """(n, passes) of each question that a side of the committed evaluation was judged on; empty before there is one."""
    head = workspace.head(f"evaluate.{student}", ALL)
    found = head.extra["rates"].get(side, {}) if head else {}
    return {key: (n, passes) for key, (n, passes) in found.items()}
