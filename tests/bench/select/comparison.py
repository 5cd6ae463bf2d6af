"""What each selection rule keeps of noise that is known, and what a student learns from it.

A tiny transformer learns sums from right traces and writes the traces of a workspace; noise replaces a known share of
them (world.py). For every seed and rate the road of a recipe is walked up to `select` by the project's own code, once a
rule, and a student of the same shape is trained from scratch on what was selected, for the same number of steps. Rates,
sizes, rules and seeds were fixed in PLAN before the first run of the comparison, and have stayed since; the number of
steps was chosen after one look at right traces alone, where 400 gave an accuracy of 0.93.

Noise takes half of its turns in a form that no verifier of answers sees (right answer, wrong working).
Intervals: 95 %, Student's t over the seeds. --seeds takes fewer of the seeds, --quick a size that only shows that it
runs.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import world
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student_t
from transformers import LlamaForCausalLM

from flows.recipe import check_recipe
from flows.run import Wish, carry_out, open_workspace, plan, run_range
from tasks.step import Context


@dataclass(frozen=True)
class Plan:
    sizes: world.Sizes = field(default_factory=world.Sizes)
    rates: tuple[float, ...] = (0.2, 0.6)
    """share of the traces that are noise"""
    seeds: tuple[int, ...] = (11, 12, 13, 14, 15)
    teacher_seed: int = 1


PLAN = Plan()
QUICK = replace(PLAN, sizes=replace(PLAN.sizes, questions=40, heldout=40, teacher_steps=60, student_steps=20),
                rates=(0.6,), seeds=(11, 12))  # fmt: skip
NOTHING = {"filters": None, "exact_duplicates": False, "near_duplicates": None}
RULES: dict[str, dict[str, Any]] = {
    "all (no filter)": {"method": "all"},
    "verified": {"method": "verified"},
    "verified, one at random": {"method": "verified", "max_per_question": 1, "best_by": "random"},
    "verified, most teacher sentences": {"method": "verified", "max_per_question": 1, "best_by": "teacher_sentences"},
    "deepdistill (CV over 0.5)": {"method": "deepdistill"},
}
UNVERIFIED = "all (no filter)"
EVERYTHING = [(a, b) for a in range(10, 100) for b in range(10, 100)]
JOBS = 2
"""seeds at a time, a core each"""


@dataclass(frozen=True)
class Found:
    """One student."""

    rule: str
    rate: float
    seed: int
    selected: int
    noise: float
    """share of noise in the selection"""
    accuracy: float
    """greedy, on questions held out"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seeds", type=int, default=None, help="take the first so many seeds only")
    arguments.add_argument("--quick", action="store_true")
    given = arguments.parse_args()
    chosen = QUICK if given.quick else PLAN
    chosen = replace(chosen, seeds=chosen.seeds[: given.seeds])
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = compare(chosen, Path(folder))
    show(chosen, found)
    print(f"{len(found)} students, {time.monotonic() - began:.0f} s")


def compare(chosen: Plan, folder: Path) -> list[Found]:
    sizes, words = chosen.sizes, world.tokenizer()
    teacher = world.fresh(sizes, words, chosen.teacher_seed)
    world.learn(teacher, words, [(pair, world.solve(pair)) for pair in EVERYTHING], sizes, sizes.teacher_steps,
                chosen.teacher_seed)  # fmt: skip
    world.save(teacher, words, folder / "teacher")
    found: list[Found] = []
    with ProcessPoolExecutor(JOBS, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(of_seed, chosen, folder, seed) for seed in chosen.seeds]):
            found += done.result()
    return found


def of_seed(chosen: Plan, folder: Path, seed: int) -> list[Found]:
    """All rates and rules on the questions, traces, noise and first weights of one seed."""
    torch.set_num_threads(1)
    sizes, words = chosen.sizes, world.tokenizer()
    teacher = LlamaForCausalLM.from_pretrained(folder / "teacher").eval()
    draw = random.Random(seed)
    pairs = draw.sample(EVERYTHING, sizes.questions + sizes.heldout)
    train, heldout = pairs[: sizes.questions], pairs[sizes.questions :]
    print(f"seed {seed}: the teacher's accuracy {world.accuracy(teacher, words, heldout):.3f}", flush=True)
    world.save(world.fresh(sizes, words, seed), words, folder / f"student-{seed}")
    asked = train * sizes.samples
    written = world.write(teacher, words, asked, temperature=1.0, seed=seed)
    found = []
    for rate in chosen.rates:
        house = folder / f"{seed}-{rate}"
        traces, noisy = with_noise(asked, written, rate, draw)
        write_files(house, train, traces, sizes.samples)
        for rule, settings in RULES.items():
            places = select(house, settings, folder / "teacher", folder / f"student-{seed}")
            noise = sum(noisy[place] for place in places) / len(places)
            student = world.fresh(sizes, words, seed)
            examples = [(asked[place], traces[place]) for place in places]
            world.learn(student, words, examples, sizes, sizes.student_steps, seed)
            found.append(Found(rule, rate, seed, len(places), noise, world.accuracy(student, words, heldout)))
            print(json.dumps(asdict(found[-1])), flush=True)
    return found


def with_noise(
    pairs: list[world.Pair], traces: list[str], rate: float, draw: random.Random
) -> tuple[list[str], list[bool]]:
    """Traces of which a share is noise, the kinds by turns, and which are."""
    places = draw.sample(range(len(pairs)), round(rate * len(pairs)))
    kinds = {place: ("wrong", "lucky")[turn % 2] for turn, place in enumerate(places)}
    mixed = [
        world.spoil(pair, kinds[place], draw) if place in kinds else trace
        for place, (pair, trace) in enumerate(zip(pairs, traces, strict=True))
    ]
    return mixed, [place in kinds for place in range(len(pairs))]


def write_files(house: Path, train: list[world.Pair], traces: list[str], samples: int) -> None:
    house.mkdir()
    with (house / "sums.jsonl").open("w") as file:
        for place, pair in enumerate(train):
            responses = [traces[k * len(train) + place] for k in range(samples)]
            row = {"question": world.ask(pair), "ground_truth": str(sum(pair)), "response": responses}
            file.write(json.dumps(row) + "\n")


def select(house: Path, settings: dict[str, Any], teacher: Path, student: Path) -> list[int]:
    """Which traces the rule selects, by the steps of a recipe; sample k of question q has place k × questions + q."""
    scorers = [{"name": name, "engine": "transformers", "model": str(model), "device": "cpu"}
               for name, model in (("teacher", teacher), ("student", student))]  # fmt: skip
    recipe = {
        "name": "world",
        "sources": [{"name": "sums", "kind": "file", "path": "sums.jsonl", "category": "math", "license": "MIT"}],
        "curate": NOTHING, "runner": {"max_workers": 1}, "select": settings | {"trace": None},
        "teachers": [{"name": "tiny", "engine": "replay", "path": "sums.jsonl", "samples": PLAN.sizes.samples}],
        "score": {"scorers": scorers, "provenance": {"teacher": "teacher", "student": "student"}},
    }  # fmt: skip
    loaded = check_recipe(recipe, house)
    workspace = open_workspace(loaded, house / "workspace")
    context = Context(workspace, "bench")
    carry_out(plan(loaded, workspace, Wish("select")), lambda batch: [run_range(context, one) for one in batch])
    places = {json.loads(line)["question"]: place for place, line in enumerate((house / "sums.jsonl").open())}
    asked: dict[str, int] = {}
    samples: dict[str, int] = {}
    chosen = []
    for shard in workspace.shards:
        for row in workspace.read("curate", shard, "curated").to_pylist():
            asked[row["question_id"]] = places[row["messages"][0]["content"]]
        for row in workspace.read("generate.tiny", shard, "responses", ["response_id", "sample_index"]).to_pylist():
            samples[row["response_id"]] = row["sample_index"]
        chosen += workspace.read("select", shard, "selection").to_pylist()
    return sorted(samples[row["response_id"]] * len(places) + asked[row["question_id"]] for row in chosen)


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half of its 95 % interval, Student's t; the half is NaN for one value."""
    if len(values) < 2:
        return values[0], float("nan")
    half = float(student_t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values), half


def show(chosen: Plan, found: list[Found]) -> None:
    table = Table(title="noise kept and the student's accuracy, mean and 95 % interval over seeds")
    for name in ("noise injected", "rule", "selected", "noise kept, %", "accuracy, %"):
        table.add_column(name, justify="left" if name == "rule" else "right")
    for rate in chosen.rates:
        for rule in RULES:
            mine = [one for one in found if (one.rule, one.rate) == (rule, rate)]
            kept, right = (
                "{:.1f} ± {:.1f}".format(*(100 * number for number in interval([getattr(one, name) for one in mine])))
                for name in ("noise", "accuracy")
            )
            selected = statistics.mean(one.selected for one in mine)
            table.add_row(f"{100 * rate:g} %", rule, f"{selected:.0f}", kept, right)
    Console(width=120).print(table)
    for rate in chosen.rates:
        by = {(one.rule, one.seed): one.accuracy for one in found if one.rate == rate}
        for rule in RULES:
            if rule != UNVERIFIED:
                leads = [by[rule, seed] - by[UNVERIFIED, seed] for seed in chosen.seeds]
                print(f"{100 * rate:g} % noise: {rule}: {verdict(*interval(leads))}")


def verdict(mean: float, half: float) -> str:
    """In words, by whether 0 lies in the paired interval."""
    if abs(mean) > half:
        word = "beats no filter" if mean > 0 else "is beaten by no filter"
    else:
        word = "no difference shown"
    return f"{word} ({100 * mean:+.1f} ± {100 * half:.1f} points)"
