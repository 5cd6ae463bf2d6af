"""What a shard costs beside its requests: many trivial shards through the worker pool, and through one process.

    python tests/bench/shards [--bits 10] [--questions 4096] [--workers 2] [--per-range 64]

A Prefect server, a `process` pool and its workers are started here; the teacher is a stub that answers at once. Both
ways make the same `generate` step of the same workspace. Seconds are of the whole command, its own start included.
The parent's memory is sampled every half second while it waits for the workers.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import yaml

PROJECT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(PROJECT))

from storage.workspace import Workspace  # noqa: E402
from tests.faults.bad_server import BadServer  # noqa: E402
from tests.faults.worker_pool import Pool, Tree  # noqa: E402


def make_workspace(folder: Path, url: str, given: argparse.Namespace) -> Path:
    """Recipe and curated questions; returns the recipe."""
    with (folder / "sums.jsonl").open("w") as file:
        for number in range(given.questions):
            file.write(json.dumps({"question": f"What is {number} + {number}?"}) + "\n")
    recipe = {
        "name": "shards",
        "sources": [{"name": "sums", "kind": "file", "path": "sums.jsonl", "category": "math"}],
        "curate": {"filters": None, "exact_duplicates": False, "near_duplicates": None},
        "teachers": [{"name": "t", "engine": "openai", "model": "m", "base_url": url, "samples": 1}],
        "runner": {"kind": "prefect", "shards_per_range": given.per_range, "lease_s": 60},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    Workspace.create(folder / "workspace", bits=given.bits)
    return folder / "recipe.yaml"


def watch(tree: Tree) -> tuple[float, list[float]]:
    """Seconds until the command ended, and its memory in MB every half second."""
    started, samples = time.monotonic(), []
    process = psutil.Process(tree.process.pid)
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(0.5):
            try:
                if (rss := process.memory_info().rss) > 0:  # 0: it has just ended
                    samples.append(rss / 1e6)
            except psutil.Error:
                return

    sampler = threading.Thread(target=sample)
    sampler.start()
    text = tree.finish(seconds=3600)
    ended.set()
    sampler.join()
    print("\n".join(line for line in text.splitlines() if line.endswith(" s")))
    return time.monotonic() - started, samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, default=10, help="2^bits shards")
    parser.add_argument("--questions", type=int, default=4096)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--per-range", type=int, default=64)
    given = parser.parse_args()
    shards = 1 << given.bits
    folder = Path(tempfile.mkdtemp(prefix="stillhouse-shards-"))
    try:
        with BadServer(0) as server, Pool(folder) as pool:
            pool.have_workers(given.workers)
            recipe = make_workspace(folder, server.url, given)
            pool.run(recipe, folder / "workspace", "--until", "curate").finish(seconds=3600)
            shutil.copytree(folder / "workspace", folder / "again")
            here = ["--until", "generate", "--set", "runner.kind=thread"]
            one, _ = watch(pool.run(recipe, folder / "again", *here))
            away, memory = watch(pool.run(recipe, folder / "workspace", "--until", "generate"))
            runs = len(pool.flow_runs(flows={"name": {"any_": ["generate"]}}))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(
        f"{shards} shards, {given.questions} requests, {given.workers} workers, {runs} runs of {given.per_range} shards"
    )
    print(f"one process {one:.1f} s, {one / shards:.3f} s a shard; "
          f"worker pool {away:.1f} s, {away / shards:.3f} s a shard; ratio {away / one:.2f}")  # fmt: skip
    points = [memory[(len(memory) - 1) * part // 10] for part in range(11)]
    print(f"the parent's memory from start to end, MB: {' '.join(f'{one:.0f}' for one in points)}")


if __name__ == "__main__":
    main()
