"""Template check: exported conversations rendered with the student's chat template and measured against its limit.

The rule is training's own (tasks/student_examples.py): an answer whose thinking part or answer is not in the loss is
counted here and refused there. All examples up to CHECKED are rendered, of more a sample by hash; the report says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.fingerprint import hash_file, hash_text
from tasks.student_stages import PAIR_KINDS, StudentSettings
from tasks.teachers.revision import resolve_revision
from tasks.teachers.smollm2 import NAME as PACKAGED
from tasks.teachers.smollm2 import model_path as packaged_path

CHECKED = 10_000
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class Reader:
    """Who will read the export: the student's model, its template, and the tokens that it takes."""

    model: str
    revision: str | None
    chat_template: str | None
    max_length: int

    def described(self) -> dict[str, Any]:
        """What the check depends on, for the step's fingerprint."""
        template = hash_file(Path(self.chat_template)) if self.chat_template else None
        return {"weights": resolve_revision(self.model, self.revision), "chat_template": template,
                "max_length": self.max_length}  # fmt: skip


def reader_of(student: StudentSettings | None, *, pairs: bool) -> Reader | None:
    """The shortest limit of the stages that read examples, or pairs; None without a student that reads them."""
    if student is None:
        return None
    stages = [stage for stage in student.all_stages() if (stage.kind in PAIR_KINDS) == pairs]
    limits = [stage.max_length or student.max_length for stage in stages]
    return Reader(student.model, student.revision, student.chat_template, min(limits)) if limits else None


class LengthCheck:
    """Renders conversations one by one; `total` is how many will come."""

    def __init__(self, reader: Reader, total: int) -> None:
        self._reader, self._share = reader, CHECKED / max(total, 1)
        self._lengths: Counter[int] = Counter()
        self._total, self._outside, self._first = total, 0, ""
        self._tokenizer, self._fault = _tokenizer(reader)

    def add(self, conversations: Sequence[Sequence[dict[str, str]]], identity: str) -> None:
        """One example, or the two sides of a pair: the longer one is its length."""
        if self._tokenizer is None or int(hash_text("lengths", identity)[:8], 16) / 2**32 >= self._share:
            return
        from tasks.student_examples import UnusableData, encode

        try:
            longest = max(len(encode(one, identity, self._tokenizer)["input_ids"]) for one in conversations)
        except UnusableData as fault:
            self._outside += 1
            self._first = self._first or str(fault)
            return
        self._lengths[longest] += 1

    def report(self) -> dict[str, Any]:
        """Lengths in tokens with the template's own: quantiles, how many are over `max_length`, and what is not in
        the loss; `checked` of `total` were rendered."""
        rendered = self._lengths.total()
        over = sum(number for length, number in self._lengths.items() if length > self._reader.max_length)
        return {
            "checked": rendered + self._outside, "total": self._total, "max_length": self._reader.max_length,
            "over": over, "outside": self._outside, "first": self._first, "fault": self._fault,
            "model": Path(self._reader.model).name,
            "quantiles": {_label(share): quantile(self._lengths, share) for share in QUANTILES} if rendered else {},
        }  # fmt: skip


def quantile(counts: Counter[int], share: float) -> int:
    """The least value that `share` of all do not exceed."""
    total, seen = counts.total(), 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= share * total:
            return value
    raise ValueError("a quantile of nothing")


def _label(share: float) -> str:
    return "longest" if share == 1 else f"p{round(100 * share)}"


def _tokenizer(reader: Reader) -> tuple[Any, str]:
    """The student's tokenizer with its template, or None and why there is none: the export itself needs neither."""
    from transformers import AutoTokenizer

    try:
        place = str(packaged_path()) if reader.model == PACKAGED else reader.model
        found = AutoTokenizer.from_pretrained(place, revision=reader.revision or "main")
        if reader.chat_template:
            found.chat_template = Path(reader.chat_template).read_text(encoding="utf-8")
    except (OSError, ValueError) as fault:
        return None, f"the tokenizer of {Path(reader.model).name} can't be loaded: {str(fault).splitlines()[0]}"
    return (found, "") if found.chat_template else (None, f"{Path(reader.model).name} has no chat template")


def length_line(report: dict[str, Any]) -> str:
    """The check in one line, for the end of a command."""
    if report["fault"]:
        return f"template not checked: {report['fault']}"
    if not report["checked"]:
        return "template not checked: nothing was exported"
    sample = "" if report["checked"] == report["total"] else f" (a sample of {report['total']:,})"
    line = f"{report['checked']:,} rendered with the student's template{sample}: {report['over']:,} over max_length " \
           f"{report['max_length']:,}"  # fmt: skip
    if report["quantiles"]:
        line += f", median {report['quantiles']['p50']:,}, longest {report['quantiles']['longest']:,} tokens"
    lost = f"; {report['outside']:,} NOT WHOLLY IN THE LOSS: {report['first']}" if report["outside"] else ""
    return line + lost
