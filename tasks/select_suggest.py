"""A CV_t for each category, proposed from the data's own CVs: the paper (arXiv 2504.17565) publishes none.

The threshold is the one that splits the CVs of the solved training questions into two groups whose means lie farthest
apart for their sizes (Otsu 1979: greatest w₀·w₁·(μ₀ − μ₁)²), halfway between the two neighbouring CVs. It says where
the data divide, not what trains best: compare two values by an ablation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from storage.workspace import Workspace
from tasks.grade_slices import view_steps

FEW = 6
"""distinct CVs; with so few a CV says hardly more than the pass rate"""


@dataclass(frozen=True)
class Suggestion:
    """What is proposed for a category, with the CVs it comes from: (CV to thousandths, questions), ascending."""

    category: str
    counts: Sequence[tuple[float, int]]
    cv_t: float | None
    """null where all CVs are equal"""

    @property
    def questions(self) -> int:
        return sum(number for _, number in self.counts)

    @property
    def kept(self) -> int:
        """Questions with a CV above CV_t, which rule 2 of Algorithm 1 keeps."""
        return sum(number for cv, number in self.counts if self.cv_t is not None and cv > self.cv_t)

    @property
    def reason(self) -> str:
        if self.cv_t is None:
            return "all CVs are equal: nothing to divide"
        low = sum(cv * number for cv, number in self.counts if cv <= self.cv_t) / max(1, self.questions - self.kept)
        high = sum(cv * number for cv, number in self.counts if cv > self.cv_t) / max(1, self.kept)
        text = f"divides a group with mean CV {low:.2f} from one with {high:.2f}"
        return text if len(self.counts) > FEW else f"{text}; only {len(self.counts)} CVs occur: near to a pass rate"


def divide(counts: Sequence[tuple[float, int]]) -> float | None:
    """Otsu's threshold of values with their numbers, ascending by value; None where there is one value or none. Of
    equal splits the lowest."""
    total, mass = sum(number for _, number in counts), sum(value * number for value, number in counts)
    best, found = -1.0, None
    below, below_mass = 0, 0.0
    for (value, number), (following, _) in zip(counts, counts[1:], strict=False):
        below, below_mass = below + number, below_mass + value * number
        gap = below_mass / below - (mass - below_mass) / (total - below)
        spread = below * (total - below) * gap * gap
        if spread > best * (1 + 1e-12):
            best, found = spread, (value + following) / 2
    return None if found is None else round(found, 4)


def suggest(connection: duckdb.DuckDBPyConnection, workspace: Workspace) -> list[Suggestion]:
    """One proposal a category, by name, from the grades of the workspace; NotCommitted if it isn't graded."""
    view_steps(connection, workspace, "grades", ["grade"], workspace.shards)
    rows = connection.execute("""
        select category, round(cv, 3) as value, count(*)
        from grades
        where split = 'train' and passes > 0 and cv is not null
        group by category, value
        order by category, value
    """).fetchall()
    by_category: dict[str, list[tuple[float, int]]] = {}
    for category, value, number in rows:
        by_category.setdefault(category, []).append((value, number))
    return [Suggestion(category, counts, divide(counts)) for category, counts in by_category.items()]
