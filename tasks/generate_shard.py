"""One shard of one teacher: what is missing, what comes in, and the commit.

A response that was paid for is never asked for again and never thrown away: it is in the newest commit or in the
shard's log. A failed request is a row with its error, tried again by the next run unless it was refused.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from storage.manifest import Book, Inputs, Part
from storage.schemas import RESPONSES, TABLES
from tasks.budget import planned_requests
from tasks.plan import ROUNDS, planned, round_of
from tasks.shard_log import Row, Unfinished, log_folder, logs
from tasks.step import ASKED_FOR, Context, Step, Work
from tasks.teachers.replay import ReplayTeacher, Stray
from tasks.teachers.settings import TeacherBase
from tasks.teachers.teacher import Reply, Request, Teacher

TRUNCATED = "truncated: max_tokens cut the response off"
"""The error of a response that `drop_truncated` sends to the ledger."""
ROWS_AT_ONCE = 1024
NAMES = RESPONSES.names
AT = {name: place for place, name in enumerate(NAMES)}


class Shard:
    """Begins with what is there: the newest commit, and the log of what was answered since.

    `missing`: requests that are to be asked, in the order of the questions; whoever asks takes them from the left.
    """

    def __init__(self, context: Context, step: Step, work: Work, teacher: TeacherBase, revision: str,
                 engine: Teacher, unfinished: Unfinished) -> None:  # fmt: skip
        self._context, self._step, self._teacher, self._revision = context, step, teacher, revision
        self._replay = engine if isinstance(engine, ReplayTeacher) else None
        self._unfinished = unfinished
        self.name = work.shard
        self._transaction = context.begin(step, work)
        self._base: tuple[Part, ...] = ()
        self._failed: dict[str, Row] = {}
        self._replaced: set[str] = set()
        """responses that are read again, because the files that they were replayed from have changed"""
        self._sampling: dict[int, str] = {}
        self.waiting: dict[str, Request] = {}
        """asked, not answered"""
        self.stopped = ""
        """why what is missing wasn't asked: which budget is used up"""
        self.fed = False
        """all that is missing has been asked"""
        questions = context.workspace.read("curate", work.shard, "curated", ["question_id", "messages", "category"])
        plan = self._planned(questions.to_pylist())
        self._questions = {request.question_id for request in plan.values()} if self._replay else set()
        there = self._take_over(work, plan)
        there.update(row[0] for row in unfinished.rows())
        self._elsewhere = self._answered_elsewhere(plan, there)
        there |= _ids(self._elsewhere)
        self.missing = deque(
            request for key, request in plan.items() if key not in there and key not in self._failed
        )  # fmt: skip
        self.skipped = len(plan) - len(self.missing)
        """planned requests that need not be asked"""

    def _planned(self, questions: list[dict[str, Any]]) -> dict[str, Request]:
        """What this shard is to hold, by response_id."""
        return {one.request.response_id: one.request for one in planned(questions, self._teacher, self._revision)}

    def _answered_elsewhere(self, plan: dict[str, Request], there: set[str]) -> pa.Table:
        """Rows to take in: samples that a later round has paid for, and that `samples` now counts in."""
        key = f"{self._step.key}{ROUNDS}"
        if self._replay or self._context.workspace.head(key, self.name) is None:
            return RESPONSES.empty_table()
        rows = self._context.workspace.read(key, self.name, "responses")
        return rows.filter(pc.and_(_answered(rows), _is_in(rows, plan.keys() - there)))

    def _take_over(self, work: Work, plan: dict[str, Request]) -> set[str]:
        """The responses of the newest commit that stand. Keeps its refused requests, if they needn't be asked again."""
        base = self._transaction.base
        if base is None:
            return set()
        self._base = tuple(base.data())
        same_source = base.inputs.files == work.inputs.files and _source(base.inputs) == _source(work.inputs)
        earlier = self._read(["response_id", "error_kind", "error"])
        answered = _ids(earlier.filter(_answered(earlier)))
        if not same_source:
            self._replaced = answered & plan.keys()
        elif work.why != ASKED_FOR:
            self._failed = {row[0]: row for row in _as_rows(self._refused()) if row[0] in plan}
        return answered - self._replaced

    def _read(self, columns: list[str] | None = None) -> pa.Table:
        return self._context.workspace.read_parts(self._base, TABLES["responses"], columns)

    def _refused(self) -> pa.Table:
        rows = self._read(["response_id", "error_kind", "error"])
        refused = pc.and_(_equal(rows, "error_kind", "refused"), pc.invert(_answered(rows)))
        return self._read().filter(refused) if pc.any(refused).as_py() else RESPONSES.empty_table()

    # --- replies

    def take(self, reply: Reply) -> None:
        """Keep a reply; a response is safe when this returns."""
        row = self._row(self.waiting.pop(reply.response_id), reply)
        if reply.error is None:
            self._unfinished.add(row)
        else:
            self._failed[reply.response_id] = row

    def _row(self, request: Request, reply: Reply) -> Row:
        sampling = self._sampling.get(id(request.sampling))
        if sampling is None:  # one text for all requests that share the settings
            sampling = self._sampling[id(request.sampling)] = json.dumps(request.sampling, sort_keys=True)
        return [
            reply.response_id, request.question_id, self._teacher.name, self._revision,
            round_of(self._teacher, request.sample_index), request.sample_index,
            reply.think_content, reply.answer_content, None, reply.finish_reason, reply.prompt_tokens,
            reply.completion_tokens, reply.mean_logprob, sampling, reply.latency_s, reply.error, reply.error_kind,
        ]  # fmt: skip

    # --- the commit

    def commit_part(self) -> None:
        """Make safe what is answered, where there is no log; the rest stays pending. Not while old responses wait to
        be replaced: the commit would say that they were."""
        if not self._replaced:
            self.commit(whole=False)

    def commit(self, *, whole: bool = True) -> None:
        """One part for the whole shard, failed requests included; then the log is done with.

        Raises CommitLost if another writer was first. The log stays then, for the next run to take in.
        """
        base = self._read()
        answered = _answered(base)
        kept = base.filter(pc.and_(answered, pc.invert(_is_in(base, self._replaced))))
        there = _ids(kept)
        kept = pa.concat_tables([kept, self._elsewhere.filter(pc.invert(_is_in(self._elsewhere, there)))])
        there |= _ids(kept)
        fresh = _fresh(self._unfinished.rows(), there)
        failed = self._failed.keys() - there
        spare = base.filter(pc.and_(answered, _is_in(base, failed & self._replaced)))
        failed -= _ids(spare)
        silent = len(self.waiting.keys() - there) + len(self.missing) + (0 if whole else len(failed))
        unanswered = _table(self._failed[key] for key in sorted(failed if whole else ()))
        rows = _in_rounds(pa.concat_tables([kept, fresh, spare, unanswered]), self._teacher)
        rows = _judge_truncated(rows, self._teacher.drop_truncated)
        as_it_was = len(self._base) == 1 and rows.num_rows == base.num_rows == kept.num_rows and rows.equals(base)
        self._write(rows, silent, self._base if as_it_was else (), whole)

    def _write(self, rows: pa.Table, silent: int, keep: tuple[Part, ...], whole: bool) -> None:
        kinds = Counter(rows.column("error_kind").to_pylist())
        ledger = [self._refusal(row) for row in _as_rows(rows.filter(_equal(rows, "error_kind", "refused")))]
        dropped = dict(Counter(entry["rule"] for entry in ledger))
        pending = kinds["transient"] + silent
        books = [Book("request", kinds[None] + len(ledger) + pending, kinds[None], dropped, pending)]
        further, dropped_too = self._further_book(whole)
        books, ledger = books + further, ledger + dropped_too
        not_asked = budget_stop(self.stopped, len(self.missing)) if self.stopped and self.missing else {}
        head = self._transaction.commit("responses", rows.slice(0, 0) if keep else rows, ledger, books, keep=keep,
                                        extra=_totals(rows) | not_asked)  # fmt: skip
        self._base = tuple(head.data())
        self._unfinished.committed()

    def _further_book(self, whole: bool) -> tuple[list[Book], list[dict[str, Any]]]:
        """A book of another unit, and its rows of the ledger: what became of the records of a replayed teacher."""
        if self._replay is None or not whole:
            return [], []
        strays = self._replay.strays(self.name, self._questions)
        book = Book("record", strays.records, strays.records - len(strays.found), strays.by_rule())
        return [book], [self._stray(stray) for stray in strays.found]

    def close(self) -> None:
        """Let the log go without a commit."""
        self._unfinished.close()

    def _refusal(self, row: Row) -> dict[str, Any]:
        error, finish_reason = row[AT["error"]], row[AT["finish_reason"]]
        rule = "truncated" if error == TRUNCATED else finish_reason or "request_refused"
        evidence = json.dumps({"error": error, "question_id": row[AT["question_id"]]})
        return self._context.drop(self._step.key, "request", row[0], rule, evidence=evidence)

    def _stray(self, stray: Stray) -> dict[str, Any]:
        return self._context.drop(self._step.key, "record", stray.place, stray.rule,
                                  evidence=json.dumps({"detail": stray.detail}, ensure_ascii=False))  # fmt: skip


def close_unasked(context: Context, step: Step, work: Work, teacher: TeacherBase, stopped: str) -> bool:
    """Commit that a budget left a shard unasked, without computing its requests: one that nobody has begun, or that an
    earlier budget left as it is. False if there is more to it."""
    workspace, transaction = context.workspace, context.begin(step, work)
    if logs(log_folder(workspace.root, step.key), work.shard):
        return False
    base = transaction.base
    if base is None:
        number = planned_requests(workspace, teacher, work.shard)
        extra = _totals(RESPONSES.empty_table()) | (budget_stop(stopped, number) if number else {})
        transaction.commit(
            "responses", RESPONSES.empty_table(), [], [Book("request", number, 0, {}, number)], extra=extra
        )
        return True
    left = base.extra.get("budget")
    if left is None or base.inputs != work.inputs or work.why == ASKED_FOR or left["not_asked"] < base.pending:
        return False
    ledger = workspace.ledger(step.key, work.shard)
    transaction.commit("responses", RESPONSES.empty_table(), ledger, base.books, keep=base.data(),
                       extra=base.extra | budget_stop(stopped, left["not_asked"]))  # fmt: skip
    return True


def budget_stop(stopped: str, not_asked: int) -> dict[str, Any]:
    """What a commit says of the requests that a budget left unasked; they are among the pending ones."""
    return {"budget": {"reached": stopped, "not_asked": not_asked}}


def _source(inputs: Inputs) -> dict[str, Any]:
    """Where replayed responses are read from, besides the files."""
    return {name: inputs.settings["teacher"].get(name) for name in ("columns", "format")}


def _equal(rows: pa.Table, column: str, value: str) -> Any:
    """Which rows have the value; a null hasn't."""
    return pc.fill_null(pc.equal(rows.column(column), pa.scalar(value)), pa.scalar(False))


def _is_in(rows: pa.Table, keys: Iterable[str]) -> Any:
    return pc.is_in(rows.column("response_id"), pa.array(sorted(keys), pa.string()))


def _ids(rows: pa.Table) -> set[str]:
    ids: list[Any] = rows.column("response_id").to_pylist()
    return set(ids)


def _answered(rows: pa.Table) -> Any:
    """Which rows hold a response: those without an error, and truncated ones, whatever the settings say of them."""
    return pc.or_(pc.is_null(rows.column("error_kind")), _equal(rows, "error", TRUNCATED))


def _in_rounds(rows: pa.Table, teacher: TeacherBase) -> pa.Table:
    """Each row in the round that its sample is in by now: `samples` may have been more or less when it was asked."""
    indexes: list[Any] = rows.column("sample_index").to_pylist()
    rounds = pa.array([round_of(teacher, index) for index in indexes], pa.int64())
    return rows.set_column(AT["round"], RESPONSES.field("round"), rounds)


def _judge_truncated(rows: pa.Table, drop: bool) -> pa.Table:
    """Give truncated responses the error that sends them to the ledger, or take it from them."""
    cut = (
        pc.and_(_equal(rows, "finish_reason", "length"), _answered(rows)) if drop else _equal(rows, "error", TRUNCATED)
    )
    if not pc.any(cut).as_py():
        return rows
    for name, value in (("error", TRUNCATED), ("error_kind", "refused")):
        column: Any = pc.if_else(cut, pa.scalar(value if drop else None, pa.string()), rows.column(name))
        rows = rows.set_column(AT[name], RESPONSES.field(name), column)
    return rows


def _totals(rows: pa.Table) -> dict[str, int]:
    """What people want to know of a shard without reading it."""
    tokens = {name: pc.sum(rows.column(name)).as_py() or 0 for name in ("prompt_tokens", "completion_tokens")}
    return {"truncated": rows.filter(_equal(rows, "finish_reason", "length")).num_rows} | tokens


def _fresh(rows: Iterator[Row], there: set[str]) -> pa.Table:
    """The rows whose id isn't in `there` yet, the first of each; their ids are added to it."""
    tables = [RESPONSES.empty_table()]
    while some := list(islice(_new(rows, there), ROWS_AT_ONCE)):
        tables.append(_table(some))
    return pa.concat_tables(tables)


def _new(rows: Iterator[Row], there: set[str]) -> Iterator[Row]:
    for row in rows:
        if row[0] not in there:
            there.add(row[0])
            yield row


def _table(rows: Iterable[Row]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(NAMES)
    return pa.Table.from_arrays(
        [pa.array(values, field.type) for values, field in zip(columns, RESPONSES, strict=True)], schema=RESPONSES
    )


def _as_rows(table: pa.Table) -> Iterator[Row]:
    return ([row[name] for name in NAMES] for row in table.to_pylist())
