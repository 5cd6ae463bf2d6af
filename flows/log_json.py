"""Structured logs: one JSON object a line on standard error for each range of shards that begins, ends or fails, with
run, workspace, stage, step and shards. On with `stillhouse --log-json COMMAND`, or STILLHOUSE_LOG_JSON=1 for a worker.

Not covered: ranges that a Ray cluster or a GPU worker makes; those log where they run, in Prefect's own logs.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from flows.run import Range
from tasks.step import Context

SWITCH = "STILLHOUSE_LOG_JSON"
FIELDS = "{asctime}{levelname}{message}"
_log = logging.getLogger("stillhouse.ranges")


def log_to(stream: TextIO) -> None:
    """Write the log to this stream, and to no other handler; once a process."""
    from pythonjsonlogger.json import JsonFormatter

    handler = logging.StreamHandler(stream)
    names = {"asctime": "time", "levelname": "level"}
    handler.setFormatter(JsonFormatter(FIELDS, style="{", rename_fields=names, datefmt="%Y-%m-%dT%H:%M:%S%z"))
    _log.handlers = [handler]
    _log.setLevel(logging.INFO)
    _log.propagate = False


@contextmanager
def logged(context: Context, one: Range) -> Iterator[None]:
    """Log the beginning and the end of a range; an exception is logged and raised on."""
    if not os.environ.get(SWITCH):
        yield
        return
    if not _log.handlers:
        log_to(sys.stderr)
    facts: dict[str, Any] = {
        "run": context.run_id, "workspace": str(context.workspace.root), "stage": one.step.stage, "step": one.step.key,
        "shards": [work.shard for work in one.work], "why": sorted({work.why for work in one.work}),
    }  # fmt: skip
    _log.info("range begun", extra=facts)
    started = time.monotonic()
    try:
        yield
    except BaseException as fault:
        ended = {"seconds": round(time.monotonic() - started, 3), "fault": f"{type(fault).__name__}: {fault}"}
        _log.error("range failed", extra=facts | ended)
        raise
    _log.info("range done", extra=facts | {"seconds": round(time.monotonic() - started, 3)})
