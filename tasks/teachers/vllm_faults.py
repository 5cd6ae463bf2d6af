"""Why a vLLM server died, read from its log and its exit status, in words that name a remedy.

The order matters: what is recognised first wins, and the errors that follow from another one come last in the table.
Only text is looked at; a new vLLM may word things otherwise, and then its own error line is what is shown.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["port", "memory", "seed", "arguments", "model", "install", "device", "killed", "silent", "other"]
"""`silent`: it runs, but gives no sign of life"""

TAIL_LINES = 15
"""How many of a log's last lines a person is shown."""
_PREFIX = re.compile(r"^(?:\(\S+ pid=\d+\)\s*)?(?:[A-Z]+ \d\d-\d\d \S+ \[[^\]]*\]\s?)?")
_CALM = re.compile(r"^(?:\(\S+ pid=\d+\)\s*)?(?:INFO|WARNING|DEBUG)\b|Dumping (?:input data|scheduler)")
"""lines that print settings, among them the names of what may fail"""
_ERROR = re.compile(r"^(?:[A-Za-z_][\w.]*(?:Error|Exception|Refused|NotFound)\b.*|.*: error: .*)")
_TORN = re.compile(r"(?<=\S)(?=\(\w+ pid=\d+\) )")
"""where a line begins behind another: the processes share the log, and a write can come before the other's newline"""
_NOISE = re.compile(r"EngineDeadError|Engine core initialization failed|See stack trace|root cause above|root cause\.")

_KNOWN: tuple[tuple[Kind, str, str], ...] = (
    ("port", r"address already in use|Errno 98\b", "its port was taken by another process"),
    ("memory", r"out of memory|OutOfMemoryError|No available memory for the cache blocks"
               r"|larger than the (?:maximum|available) .*KV cache|less than desired GPU memory utilization"
               r"|can't allocate memory|Cannot allocate memory|std::bad_alloc",
     "out of memory: lower gpu-memory-utilization, max-model-len or max-num-seqs in the teacher's flags, raise "
     "tensor_parallel, or see what else uses the GPU"),
    ("seed", r"Generator does not use offset|per-request generator\w* (?:is|are) not supported|Generator.*seed",
     "it can't take requests with seeds"),
    ("arguments", r"unrecognized arguments|error: argument|expected one argument|invalid choice",
     "this vLLM doesn't know one of the teacher's flags"),
    ("install", r"No module named .?vllm|can't open file", "the command starts no vLLM"),
    ("device", r"Failed to infer device type|No CUDA GPUs are available|invalid device ordinal|CUDA driver version"
               r"|Found no NVIDIA driver",
     "this vLLM found no GPU that it can use; see the teacher's gpus, or take a CPU build (deploy/vllm_cpu.sh)"),
    ("model", r"not a valid model identifier|Repository Not Found|RepositoryNotFoundError|Invalid repository ID"
              r"|does not appear to have a file named|are not supported for now|Unrecognized model in|no file named"
              r"|couldn't connect to .* to load|safetensors_rust|HeaderTooLarge|Cannot find any model weights"
              r"|trust_remote_code=True",
     "it can't load the model; see the teacher's model and revision"),
)  # fmt: skip


@dataclass(frozen=True)
class Death:
    """Why a server is gone. `cause` is one line for people, `tail` the last lines of its log."""

    kind: Kind
    cause: str
    tail: tuple[str, ...]

    def told(self, log: str) -> str:
        """The cause, then the server's own last words and where the rest is."""
        lines = "".join(f"\n    {line[:300]}" for line in self.tail)
        return f"{self.cause}\n  the end of its log ({log}):{lines or ' (empty)'}"


def explain(lines: Sequence[str], status: int | None) -> Death:
    """What the log's lines and the exit status (128 + n for signal n; None: still running) say about a death."""
    lines = [part for line in lines for part in _TORN.split(line)]
    tail = tuple(lines[-TAIL_LINES:])
    bare = [_PREFIX.sub("", line).strip() for line in lines if not _CALM.search(line)]
    said = next((line for line in bare if _ERROR.match(line) and not _NOISE.search(line)), None)
    for kind, pattern, words in _KNOWN:
        matching = [line for line in bare if re.search(pattern, line, re.IGNORECASE)]
        if matching:
            line = next((line for line in matching if _ERROR.match(line)), matching[0])
            return Death(kind, f"{words} ({line[:200]})", tail)
    if said:
        return Death("other", said[:300], tail)
    if status == 137:
        return Death("killed", "it was killed with SIGKILL; the kernel does that when memory runs out", tail)
    if status is None:
        return Death("other", "it still runs, but says that its engine is dead", tail)
    return Death("other", f"it ended with status {status} and said nothing", tail)
