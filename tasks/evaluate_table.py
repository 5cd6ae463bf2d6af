"""An evaluation as people read it: base, student and teachers side by side, on held-out questions and benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

NAMES = {"before": "base", "after": "student", "before_greedy": "base, greedy", "after_greedy": "student, greedy"}


@dataclass(frozen=True)
class SideRow:
    """One who was asked, on one set of questions. Shares 0..1; None for what was not measured."""

    on: str
    who: str
    questions: int
    accuracy: float | None
    low: float | None
    high: float | None
    best_of: str
    """the largest k and its pass@k, such as `pass@4 61.0%`"""
    majority: float | None
    tokens: float | None
    """mean length of an answer, thinking included"""
    tokens_per_second: float | None


def side_rows(metrics: dict[str, Any]) -> list[SideRow]:
    """Base, student and teachers on the held-out questions, then base and student on each benchmark."""
    speed = metrics.get("speed", {})
    rows = _rows("held-out", metrics["all"], speed)
    rows += [_row("held-out", f"teacher {name}", side, None) for name, side in metrics.get("teachers", {}).items()]
    for name, group in metrics.get("benchmarks", {}).items():
        rows += _rows(name, group, speed)
    return [row for row in rows if row.questions]


def _rows(on: str, group: dict[str, Any], speed: dict[str, float]) -> list[SideRow]:
    return [_row(on, name, group[side], speed.get(side)) for side, name in NAMES.items() if side in group]


def _row(on: str, who: str, side: dict[str, Any], speed: float | None) -> SideRow:
    ks = sorted((int(name.removeprefix("pass@")) for name in side if name.startswith("pass@")), reverse=True)
    best = f"pass@{ks[0]} {side[f'pass@{ks[0]}']:.1%}" if ks and ks[0] > 1 else ""
    return SideRow(on, who, side["questions"], side.get("accuracy"), side.get("low"), side.get("high"), best,
                   side.get("majority"), side.get("tokens"), speed)  # fmt: skip


def change_lines(metrics: dict[str, Any]) -> list[str]:
    """One line for each comparison of before and after on the same questions."""
    groups = [("held-out questions", metrics["all"]), *metrics.get("benchmarks", {}).items()]
    lines = []
    for on, group in groups:
        for key, how in (("difference", ""), ("difference_after_greedy", ", greedy")):
            if key in group:
                lines.append(f"{on}{how}: {_change(group[key])}")
        if group.get("in_training"):
            lines.append(f"{on}: {group['in_training']} of its questions stand in the training split word for word")
    return lines


def _change(found: dict[str, Any]) -> str:
    p = f", McNemar p = {found['p']:.3g}" if found["p"] is not None else ""
    return (
        f"{100 * found['value']:+.1f} points by training, 95 % interval {100 * found['low']:+.1f} to "
        f"{100 * found['high']:+.1f}, paired over {found['questions']} questions{p}"
    )


def loss_curves(results: Sequence[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """The loss by step of each stage that was trained, by its name."""
    return {one["name"]: [tuple(point) for point in one["loss_curve"]] for one in results if one.get("loss_curve")}
