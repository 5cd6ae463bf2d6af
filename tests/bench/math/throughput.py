r"""Speed and verdicts of the math verifier against bare Math-Verify in one process, in one run on one machine.

    python tests/bench/math [--rounds 5] [--workers 2]
    python tests/bench/math --table        # the table of docs/math.md

Two sets of pairs. *same*: 5,276 GSM8K responses with their labels, and the 5,000 MATH solutions against their own
answer. *different*: pairs of MATH answers whose normal forms differ, right ones in another spelling and wrong ones.
Bare Math-Verify (`verify(parse(reference), parse(answer))`, its own time limits on) gets the bare answers in a box,
ours whole responses. The ways take turns; a rate is the median over rounds, a ratio the median of the ratios within a
round. Each round has new processes for both, so that nothing that they keep outlives it.

Not covered: start of the workers (all are warm), bombs (tests), answers without a box or marker.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import random
import re
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from math_verify import parse, verify
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tasks.verifiers.answer import after_marker, last_boxed
from tasks.verifiers.answer_forms import normalize
from tasks.verifiers.math import MathVerifier
from tasks.verifiers.verdict import Item, Judgement

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.tasks.verifiers.math_families import Pair, pairs, response

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
TEACHERS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
GOALS = {"same": 5.0, "different": 1.5}
BATCH = 2_000


@dataclass(frozen=True)
class Case:
    """A pair with the right verdict: the item for ours, the two answers for Math-Verify."""

    item: Item
    reference: str
    answer: str
    right: bool


def gsm8k() -> Iterator[Case]:
    """Every response of the four teachers with its label."""
    for line in (DATA / "gsm8k_model_solutions.jsonl").read_text().splitlines():
        row = json.loads(line)
        reference = after_marker(row["ground_truth"], "A:") or ""
        for teacher in TEACHERS:
            solution = row[teacher]["solution"]
            item = Item("q", "math", row["question"], row["ground_truth"], solution)
            yield Case(item, reference, after_marker(solution, "A:") or "", row[teacher]["is_correct"])


def math_answers() -> list[tuple[str, str, str, str]]:
    """Problem, type, solution and boxed answer of each MATH test problem."""
    rows = [json.loads(line) for line in (DATA / "math_test.json").read_text().splitlines()]
    return [(row["problem"], row["type"], row["solution"], last_boxed(row["solution"]) or "") for row in rows]


def own_answers() -> Iterator[Case]:
    for problem, _, solution, answer in math_answers():
        yield Case(Item("q", "math", problem, solution, solution), answer, answer, True)


def boxed(problem: str, reference: str, answer: str, right: bool) -> Case:
    return Case(Item("q", "math", problem, reference, f"\\boxed{{{answer}}}"), reference, answer, right)


def respelled(answer: str) -> str | None:
    """The same answer in another spelling, None where there is no obvious one."""
    bare = answer.replace("\\!", "").replace("\\left", "").replace("\\right", "")
    if (fraction := re.fullmatch(r"(-?)\\d?frac\{?(\d+)\}?\{?(\d+)\}?", bare)) is not None:
        return f"{fraction[1]}\\frac{{{2 * int(fraction[2])}}}{{{2 * int(fraction[3])}}}"
    if (root := re.fullmatch(r"(\d+)\s*\\sqrt\{?(\d+)\}?", bare)) is not None:
        return f"\\sqrt{{{int(root[1]) ** 2 * int(root[2])}}}"
    if (point := re.fullmatch(r"\(([^()\[\]\\]+)\)", bare)) is not None and "," in bare:
        return "(" + ", ".join(f"{part.strip()}+0" for part in point[1].split(",")) + ")"
    if re.fullmatch(r"-?\d+(?:, ?-?\d+)+", bare) and not re.fullmatch(r"\d{1,3}(?:,\d{3})+", bare):
        return ", ".join(reversed(bare.split(",")))
    if re.search(r"[a-zA-Z]", bare) and re.fullmatch(r"[\w\s^{}+*()-]{2,}", bare) and "_" not in bare:
        return f"1 + {bare} - 1"
    return None


def other_spellings_and_wrong_ones(seed: int = 7) -> Iterator[Case]:
    """Pairs whose normal forms differ: every answer that can be respelled, and as many wrong ones, answers of other
    problems of the same type (neither is a plain number)."""
    draw = random.Random(seed)
    rows = [row for row in math_answers() if not re.fullmatch(r"-?\\?\$?[\d,.!\\]+", row[3])]
    for problem, kind, _, answer in rows:
        other = respelled(answer)
        if other is None:
            continue
        if normalize(other) != normalize(answer):
            yield boxed(problem, answer, other, True)
        wrong = draw.choice([row[3] for row in rows if row[1] == kind])
        if normalize(wrong) not in (normalize(answer), normalize(other)):
            yield boxed(problem, answer, wrong, False)


# ------------------------------------------------------------------------------------------------- measuring


def bare_verdict(reference: str, answer: str) -> bool:
    """Math-Verify as its README has it."""
    return verify(parse(f"\\boxed{{{reference}}}"), parse(f"\\boxed{{{answer}}}"))


def measure_bare(cases: list[Case]) -> tuple[float, list[bool]]:
    """Seconds and verdicts in one new process, as ours has new workers."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as process:
        return process.submit(time_bare, cases).result()


def time_bare(cases: list[Case]) -> tuple[float, list[bool]]:
    logging.disable(logging.CRITICAL)
    for case in warm_up():
        bare_verdict(case.reference, case.answer)
    started = time.perf_counter()
    verdicts = [bare_verdict(case.reference, case.answer) for case in cases]
    return time.perf_counter() - started, verdicts


def warm_up(workers: int = 1) -> list[Case]:
    """Pairs that bring up every worker; they are not timed."""
    return [boxed("", f"\\sqrt{{{n}}}", f"x+\\sqrt{{{n}}}", False) for n in range(2, 2 + 32 * workers)]


def measure_ours(cases: list[Case], workers: int) -> tuple[float, list[Judgement]]:
    """Seconds and verdicts with new workers."""
    with MathVerifier(workers=workers, answer_from=["boxed", "marker:A:"]) as verifier:
        verifier.judge([case.item for case in warm_up(workers)])
        started = time.perf_counter()
        judgements = []
        for start in range(0, len(cases), BATCH):
            judgements += verifier.judge([case.item for case in cases[start : start + BATCH]])
        return time.perf_counter() - started, judgements


def compare(console: Console, name: str, cases: list[Case], rounds: int, workers: int) -> None:
    times: dict[str, list[float]] = {"bare": [], "ours": []}
    for number in track(range(rounds), name, console=console, transient=True):
        for way in ("bare", "ours") if number % 2 else ("ours", "bare"):
            if way == "bare":
                seconds, bare = measure_bare(cases)
            else:
                seconds, ours = measure_ours(cases, workers)
            times[way].append(seconds)
    ratios = [bare / ours for bare, ours in zip(times["bare"], times["ours"], strict=True)]
    table = Table(title=f"{name}: {len(cases):,} pairs, {rounds} rounds")
    for heading in ("", "pairs/s", "right verdicts", "false accepts", "false rejects"):
        table.add_column(heading, justify="right" if heading else "left")
    for way, verdicts in (("bare", bare), ("ours", [bool(judgement.passed) for judgement in ours])):
        false_accepts = sum(verdict and not case.right for verdict, case in zip(verdicts, cases, strict=True))
        false_rejects = sum(case.right and not verdict for verdict, case in zip(verdicts, cases, strict=True))
        right = len(cases) - false_accepts - false_rejects
        rate = len(cases) / statistics.median(times[way])
        table.add_row(way, f"{rate:,.0f}", f"{right:,}", str(false_accepts), str(false_rejects))
    console.print(table)
    symbolic = sum("math_verify" in str(judgement.evidence.get("path")) for judgement in ours)
    goal = GOALS.get(name)
    console.print(
        f"ours / bare: {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        + (f", goal {goal}" if goal else "")
        + f"; decided by Math-Verify: {symbolic:,}; workers {workers}"
    )
    for judgement, case in zip(ours, cases, strict=True):
        if bool(judgement.passed) != case.right:
            console.print(
                f"  {case.reference!r} / {case.answer!r}: {judgement.status}, right: {case.right}", style="dim"
            )


# ----------------------------------------------------------------------------------------------------- table


def as_cell(text: str) -> str:
    shown = text.replace("|", "\\|").replace("\u202a", "").replace("\u202c", "").replace("\u200b", "")
    return f"`{shown}`"


def print_table() -> None:
    """Markdown: for each family the pairs and both verdicts' mistakes, and one example where bare Math-Verify is wrong
    (or, where it never is, the first pair)."""
    everything = pairs()
    with MathVerifier(answer_from=["boxed"]) as verifier:
        judgements = verifier.judge([Item("q", "math", "", pair.reference, response(pair)) for pair in everything])
    ours = {pair: bool(judgement.passed) for pair, judgement in zip(everything, judgements, strict=True)}
    bare = {pair: verify(parse(f"\\boxed{{{pair.reference}}}"), parse(response(pair))) for pair in everything}
    print("| family | pairs | bare wrong | ours wrong | reference | answer | bare | ours | right |")
    print("|---|---|---|---|---|---|---|---|---|")
    for family in dict.fromkeys(pair.family for pair in everything):
        members = [pair for pair in everything if pair.family == family]
        for right in (True, False):
            print_rows(family, [pair for pair in members if pair.right is right], bare, ours)


def print_rows(family: str, members: list[Pair], bare: dict[Pair, bool], ours: dict[Pair, bool]) -> None:
    verdict = {True: "accepted", False: "wrong"}
    mistaken = [pair for pair in members if bare[pair] != pair.right]
    example = (mistaken or members)[0]
    cells = [
        family, str(len(members)), str(len(mistaken)), str(sum(ours[pair] != pair.right for pair in members)),
        as_cell(example.reference), as_cell(example.answer),
        verdict[bare[example]], verdict[ours[example]], verdict[example.right],
    ]  # fmt: skip
    print("| " + " | ".join(cells) + " |")


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--table", action="store_true", help="print the table of docs/math.md instead")
    chosen = arguments.parse_args()
    logging.disable(logging.CRITICAL)
    if chosen.table:
        print_table()
        return
    console = Console()
    labelled, own = list(gsm8k()), list(own_answers())
    compare(console, "GSM8K", labelled, chosen.rounds, chosen.workers)
    compare(console, "same", labelled + own, chosen.rounds, chosen.workers)
    compare(console, "different", list(other_spellings_and_wrong_ones()), chosen.rounds, chosen.workers)
