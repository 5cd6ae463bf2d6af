"""What an object store costs: one replay recipe run by the command in a folder and on S3, in turns.

    python tests/bench/object_store [--recipe deploy/recipes/gsm8k_replay.yaml] [--rounds 1] [--delay-ms 0]

The S3 server (moto's, in Python) runs here and shares the cores with the run, so that its own work counts against S3.
`--delay-ms` adds a distant store's latency to every request. Three commands each: the first run, the same again with
nothing to do, and `sql` over all verdicts. Prints seconds, the ratio S3 : folder, and S3's requests; and compares the
two data sets row by row.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from statistics import median

PROJECT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(PROJECT))

from storage import objects  # noqa: E402
from storage.compare import differences  # noqa: E402
from storage.place import place  # noqa: E402
from storage.workspace import Workspace  # noqa: E402

BUCKET = "bench-object-store"
COUNT = "select status, count(*) as found from verdicts group by 1 order by 1"


def command(*words: str) -> float:
    """Seconds of a command of stillhouse, its start included."""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "flows.cli", *words], cwd=PROJECT, capture_output=True, text=True,
                          check=False)  # fmt: skip
    if done.returncode:
        sys.exit(f"stillhouse {' '.join(words)} ended with code {done.returncode}:\n{done.stdout}{done.stderr}")
    return time.monotonic() - started


def requests(endpoint: str) -> dict[str, int]:
    with urllib.request.urlopen(f"{endpoint}/_requests") as answer:
        found: dict[str, int] = json.loads(answer.read())
    return found


def measure(recipe: Path, where: str) -> dict[str, float]:
    return {
        "first run": command("run", str(recipe), "--workspace", where),
        "nothing to do": command("run", str(recipe), "--workspace", where),
        "sql": command("sql", where, COUNT),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=PROJECT / "deploy" / "recipes" / "gsm8k_replay.yaml")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--delay-ms", type=float, default=0.0)
    given = parser.parse_args()
    server = [sys.executable, str(PROJECT / "tests" / "s3_server.py"), "0", str(given.delay_ms)]
    with (
        tempfile.TemporaryDirectory() as scratch,
        subprocess.Popen(server, stdout=subprocess.PIPE, text=True) as process,
    ):
        try:
            assert process.stdout
            endpoint = process.stdout.readline().strip()
            os.environ |= {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench",
                           "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip
            objects.file_system(place(f"s3://{BUCKET}/x")).mkdir(BUCKET)
            compare(given, Path(scratch), endpoint)
        finally:
            process.terminate()


def compare(given: argparse.Namespace, scratch: Path, endpoint: str) -> None:
    folder: list[dict[str, float]] = []
    store: list[dict[str, float]] = []
    for number in range(given.rounds):
        here, there = str(scratch / f"ws{number}"), f"s3://{BUCKET}/ws{number}"
        folder.append(measure(given.recipe, here))
        before = requests(endpoint)
        store.append(measure(given.recipe, there))
        after = requests(endpoint)
        asked = {name: after[name] - before.get(name, 0) for name in after}
        differing = differences(Workspace.open(Path(here)), Workspace.open(place(there)), skip=("report",))
        print(f"round {number + 1}: requests {asked}; slices that differ: {len(differing)}", flush=True)
    print(f"{given.recipe.name}, {given.rounds} rounds, {given.delay_ms:g} ms a request, medians in seconds")
    for what in folder[0]:
        one, other = median(row[what] for row in folder), median(row[what] for row in store)
        print(f"{what:<14} folder {one:7.1f}   S3 {other:7.1f}   S3 : folder {other / one:.2f}")


if __name__ == "__main__":
    main()
