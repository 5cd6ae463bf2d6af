"""Which scores leave a response out of the training set."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow.compute as pc

from storage.workspace import Workspace
from tasks.filters import Finding
from tasks.scorers.settings import PerplexityLimits

UNKNOWN = Finding("not_scored", None, None, "null")
"""The score is pending: whether the response stays is known only then."""
COLUMNS = {"response": "perplexity", "question_and_response": "perplexity_with_question"}


def over_perplexity(
    workspace: Workspace, shard: str, limits: PerplexityLimits, scorer: str, teacher: str, steps: Sequence[str],
    response_ids: Iterable[str],
) -> dict[str, Finding]:  # fmt: skip
    """The responses of a teacher that are over its limit, that its scorer can't score (`no_perplexity`), or whose score
    isn't there yet (UNKNOWN). `steps`: those that hold its scores. Perplexities are compared to thousandths: their last
    digits depend on the batch."""
    limit = limits.limit(teacher)
    if limit is None:
        return {}
    column = COLUMNS[limits.of]
    columns = ["response_id", "scorer", column, "tokens", "response_tokens", "error"]
    scores, never = dict[str, Any](), dict[str, str]()
    for step in steps:
        rows = workspace.read(step, shard, "scores", columns).filter(pc.field("scorer") == scorer).to_pylist()
        scores |= {row["response_id"]: row for row in rows if row["error"] is None}
        never |= {row["unit_id"]: row["rule"] for row in workspace.ledger(step, shard).to_pylist()}
    found = {}
    for key in response_ids:
        score, rule = scores.get(key), never.get(f"{key}/{scorer}")
        if score is not None:
            value = round(score[column], 3)
            if value > limit:
                found[key] = Finding("perplexity", value, limit, _seen(scorer, of=limits.of, tokens=score["tokens"],
                                                                       of_tokens=score["response_tokens"]))  # fmt: skip
        elif rule is not None:
            found[key] = Finding("no_perplexity", None, limit, _seen(scorer, rule=rule))
        else:
            found[key] = UNKNOWN
    return found


def _seen(scorer: str, **more: Any) -> str:
    return json.dumps({"scorer": scorer} | more)
