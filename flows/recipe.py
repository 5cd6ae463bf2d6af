"""The recipe: one YAML file, read into one frozen model.

`load_recipe` answers a wrong key or value with its path in the file, what was found and what is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from flows.errors import RecipeError
from flows.explain import explain_error
from flows.nightly_settings import NightlySettings
from flows.reach import refuse_credentials, refuse_if_confined
from flows.recipe_file import check_plain, parse, read_recipe_file
from storage.place import place as parse_place
from storage.workspace import shard_bits
from tasks.ablate import AblateSettings
from tasks.curate import CurateSettings
from tasks.evaluate import EvaluateSettings
from tasks.export import ExportSettings
from tasks.grade import GradeSettings
from tasks.ingest import IngestSettings
from tasks.negatives import NegativeSettings
from tasks.scorers.settings import ScoreSettings
from tasks.select import SelectSettings
from tasks.settings import Settings
from tasks.sources import Source
from tasks.teachers.settings import BudgetSettings, TeacherBase, TeacherSettings
from tasks.train import StudentSettings
from tasks.verifiers.settings import VerifySettings


class RunnerSettings(Settings):
    kind: Literal["thread", "prefect", "ray"] = "thread"
    """`thread`: all in one process. `prefect`: teachers are asked by workers of a Prefect work pool. `ray`: steps that
    gain from it map their ranges of shards on a Ray cluster."""
    max_workers: int | None = Field(default=None, ge=1)
    """Tasks, verifier processes and containers side by side; null: the number of cores."""
    memory_mb: int = Field(default=4096, ge=256)
    """DuckDB's memory limit."""
    deployment: str = Field(default="generate/generate", pattern=r"^[^/]+/[^/]+$")
    """prefect: flow and deployment that a range of shards is sent to."""
    shards_per_range: int = Field(default=8, ge=1)
    """prefect: shards that a worker gets at once, for which it starts its servers once."""
    lease_s: float = Field(default=120, ge=1)
    """prefect: a worker that shows no sign of life for so long loses its range; on an NFS, longer than its attribute
    cache (60 s)."""
    stalled_s: float = Field(default=7200, ge=1)
    """prefect: a worker that lives, but to which no response comes for so long, gives its range up."""
    start_s: float = Field(default=900, ge=1)
    """prefect: how long a run may take from the queue to the start of its work, such as to fetch an image."""
    address: str | None = None
    """ray: address of a cluster, such as ray://host:10001; null: the one on this machine, else a temporary one."""


class Recipe(Settings):
    """What a data set is made from and how."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    workspace: str | None = None
    """Default workspace: a folder, or s3://BUCKET/PATH; unset: workspaces/<name>."""
    expected_questions: int = Field(default=100_000, ge=1)
    """Sets the number of shards when the workspace is made."""
    sources: tuple[Source, ...] = Field(min_length=1)
    ingest: IngestSettings = IngestSettings()
    curate: CurateSettings = CurateSettings()
    teachers: tuple[TeacherSettings, ...] = ()
    budget: BudgetSettings | None = None
    """What may be spent on all teachers together. They are asked one after the other then."""
    ask_first: Literal["cheapest", "listed"] = "cheapest"
    """In which order teachers are asked: by the price of a response, or as they stand here."""
    score: ScoreSettings | None = None
    """Models that read every response, for perplexity and provenance; null: none."""
    verify: VerifySettings = VerifySettings()
    grade: GradeSettings = GradeSettings()
    select: SelectSettings = SelectSettings()
    negatives: NegativeSettings | None = None
    """Pairs of a selected and a failed response, for REDI, DPO and KTO; null: none."""
    export: ExportSettings = ExportSettings()
    student: StudentSettings | None = None
    evaluate: EvaluateSettings | None = None
    ablate: AblateSettings = AblateSettings()
    """What `stillhouse ablate` compares."""
    nightly: NightlySettings = NightlySettings()
    """What `stillhouse nightly` does beyond `run`: fresh samples, editions and their checks."""
    runner: RunnerSettings = RunnerSettings()

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        for kind, names in (
            ("sources", [one.name for one in self.sources]),
            ("teachers", [one.name for one in self.teachers]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{kind}: the name {twice[0]} is used twice; every one needs its own")
        unpriced = [one.name for one in self.teachers if one.costs and one.price(0, 0) is None]
        if self.budget and self.budget.money is not None and unpriced:
            raise ValueError(f"budget.money needs prices: set price_per_million_tokens of {', '.join(unpriced)} (0 if "
                             "asking costs nothing)")  # fmt: skip
        names = [one.name for one in self.teachers]
        for name in self.select.trace.thinking if self.select.trace else ():
            if name not in names:
                raise ValueError(f"select.trace.thinking: no teacher {name}; there are {', '.join(names) or 'none'}")
        if self.select.perplexity:
            self.select.perplexity.check(self.score, names)
        self.select.check(
            names,
            [one.name for one in self.sources],
            scorers=len(self.score.scorers) if self.score else 0,
            provenance=bool(self.score and self.score.provenance),
            embeds=self.curate.needs_embeddings(),
        )
        for one in self.teachers:
            self._rounds_fit(one)
        if self.grade.repair and not self.verify.judge:
            raise ValueError(
                "grade.repair asks a judge: set `verify.judge`; `verify.route` says where else it is asked"
            )
        if self.student and "huggingface" not in self.export.formats:
            raise ValueError(
                "export.formats: a student must have the format huggingface; add it, or take `student` out"
            )
        if self.student and self.student.needs_pairs() and not self.negatives:
            raise ValueError(
                "student.stages: redi and dpo are trained on pairs: set `negatives`, such as negatives: {}"
            )
        if self.evaluate and self.student and self.student.lora and not self.student.lora.merge:
            raise ValueError("evaluate reads whole models: set student.lora.merge to true, or leave `evaluate` out")
        if self.score and self.score.provenance and self.score.provenance.trained and not self.evaluate:
            raise ValueError("score.provenance.trained traces the student's held-out answers: set `evaluate`")
        if self.evaluate and not self.student:
            raise ValueError("evaluate needs a student: set `student`")
        if self.evaluate and not self.curate.heldout and not self.evaluate.benchmarks:
            raise ValueError(
                "evaluate needs held-out questions: set `curate.heldout` to a share such as 0.05, or name "
                "`evaluate.benchmarks`"
            )
        return self

    def _rounds_fit(self, teacher: TeacherBase) -> None:
        if teacher.until == "settled" and self.grade.bands != "pass_rate":
            raise ValueError(f"teacher {teacher.name}: until settled needs bands that are known while it is asked: set "
                             f"grade.bands to pass_rate (found {self.grade.bands})")  # fmt: skip


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe with where it came from: its folder is what relative paths in it are relative to."""

    recipe: Recipe
    base: Path
    path: Path | None = None
    overrides: tuple[str, ...] = field(default=())

    def as_yaml(self) -> str:
        return yaml.safe_dump(self.recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    @property
    def bits(self) -> int:
        return shard_bits(self.recipe.expected_questions)

    def default_workspace(self) -> Path:
        return parse_place(self.recipe.workspace or f"workspaces/{self.recipe.name}")


def load_recipe(path: Path, overrides: tuple[str, ...] = ()) -> LoadedRecipe:
    """Read and check a recipe file; `overrides` are `a.b=value`, the value YAML."""
    loaded = check_recipe(read_recipe_file(path), path.resolve().parent, overrides, path)
    settings = loaded.recipe.model_dump(mode="json")
    refuse_credentials(settings, str(path))
    refuse_if_confined(settings, loaded.base, str(path))
    return loaded


def check_recipe(raw: Any, base: Path, overrides: tuple[str, ...] = (), path: Path | None = None) -> LoadedRecipe:
    """A recipe from its parsed YAML."""
    where = str(path or "recipe")
    if not isinstance(raw, dict):
        raise RecipeError(f"{where}: found {type(raw).__name__}, expected keys such as `name` and `sources`")
    raw = {key: value for key, value in raw.items() if not str(key).startswith("x-")}  # anchors of the author's own
    for override in overrides:
        _override(raw, override)
    check_plain(raw, where)
    try:
        recipe = Recipe.model_validate(raw, context={"base": base})
    except ValidationError as fault:
        lines = "\n".join(f"{where}: {explain_error(error, raw, Recipe)}" for error in fault.errors()[:8])
        raise RecipeError(lines) from fault
    return LoadedRecipe(recipe, base, path, overrides)


def budget_overrides(budget: str) -> tuple[str, ...]:
    """`requests=1000,hours=2` as overrides of the recipe's `budget`. Raises RecipeError."""
    allowed = ", ".join(BudgetSettings.model_fields)
    found = []
    for part in budget.split(","):
        name, given, value = part.strip().partition("=")
        if name not in BudgetSettings.model_fields or not given:
            raise RecipeError(f"--budget {budget}: found {part.strip()!r}, expected NAME=NUMBER,… with {allowed}")
        found.append(f"budget.{name}={value}")
    return tuple(found)


def _override(raw: dict[str, Any], override: str) -> None:
    """Set `a.b.c=value`; in a list a part is a number or the `name` of an item."""
    name, found, text = override.partition("=")
    if not found or not name:
        raise RecipeError(f"--set {override}: expected key.key=value, such as curate.near_duplicates.threshold=0.9")
    value = parse(text, f"--set {override}")
    *parents, last = name.split(".")
    place: Any = raw
    for part in parents:
        place = _descend(place, part, override)
    if isinstance(place, list):
        place[_position(place, last, override)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise RecipeError(f"--set {override}: {'.'.join(parents)} is {place!r}, which has no keys")


def _descend(place: Any, part: str, override: str) -> Any:
    if isinstance(place, list):
        return place[_position(place, part, override)]
    if isinstance(place, dict):
        if not isinstance(place.get(part), dict | list):
            place[part] = {}
        return place[part]
    raise RecipeError(f"--set {override}: {part} lies below a value that has no keys")


def _position(items: list[Any], part: str, override: str) -> int:
    if part.isdigit() and int(part) < len(items):
        return int(part)
    names = [item.get("name") for item in items if isinstance(item, dict)]
    if part in names:
        return names.index(part)
    raise RecipeError(f"--set {override}: no item {part}; there are {', '.join(str(name) for name in names)}")
