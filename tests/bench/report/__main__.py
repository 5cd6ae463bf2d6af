"""The report of a large workspace: seconds, memory, size of the page.

    python tests/bench/report [--questions 87500] [--samples 4] [--folder /tmp] [--keep]

The workspace is the one of tests/bench/view; it has no log-probabilities, no scores and no profiles by teacher, so the
charts of these are missing from its page. The alternative is what a notebook does for one of the page's fifteen parts:
read responses and outcomes into pandas, merge, take the quantiles of the lengths. Each runs in a process of its
own, for its peak memory.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[3]


def make(folder: Path, questions: int, samples: int) -> Path:
    """The workspace of tests/bench/view; the bench's folder is no package, so it is run as a program."""
    command = [sys.executable, "tests/bench/view", "--questions", str(questions), "--samples", str(samples),
               "--repeats", "1", "--folder", str(folder), "--keep"]  # fmt: skip
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return folder / "viewed" / "workspace"


def report(root: Path) -> None:
    from storage.workspace import Workspace
    from tasks.report import write_report

    write_report(Workspace.open(root), "large", None)


def notebook(root: Path) -> None:
    import pyarrow.dataset

    responses = pyarrow.dataset.dataset(root / "tables" / "responses").to_table().to_pandas()
    verdicts = pyarrow.dataset.dataset(root / "tables" / "verdicts").to_table().to_pandas()
    merged = responses.merge(verdicts[verdicts.verifier == "outcome"], on="response_id")
    merged.groupby(["teacher_x", "passed"]).completion_tokens.quantile([0.05, 0.25, 0.5, 0.75, 0.95])


def measured(what: str, root: Path) -> tuple[float, float]:
    """(seconds, peak MiB) of `report` or `notebook` in a process of its own."""
    command = [sys.executable, str(Path(__file__).parent), "--one", what, str(root)]
    started = time.perf_counter()
    found = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - started, float(found.stdout.split()[-1])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--questions", type=int, default=87_500)
    arguments.add_argument("--samples", type=int, default=4, help="of each of three teachers")
    arguments.add_argument("--folder", type=Path, help="where the workspace is made; default: the system's")
    arguments.add_argument("--keep", action="store_true", help="keep it, and use one that is there")
    arguments.add_argument("--one", nargs=2, metavar=("WHAT", "WORKSPACE"), help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.one:
        what, root = given.one
        {"report": report, "notebook": notebook}[what](Path(root))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    base = given.folder or Path(tempfile.gettempdir())
    folder = base if given.keep else Path(tempfile.mkdtemp(prefix="bench-report-", dir=base))
    try:
        compare(make(folder, given.questions, given.samples), given.questions * given.samples * 3)
    finally:
        if not given.keep:
            shutil.rmtree(folder)


def compare(root: Path, responses: int) -> None:
    table = Table("what", "seconds", "peak MiB", title=f"about {responses:,} responses, load {os.getloadavg()[0]:.1f}")
    page_s, page_mb = measured("report", root)
    other_s, other_mb = measured("notebook", root)
    table.add_row("the whole page", f"{page_s:.1f}", f"{page_mb:,.0f}")
    table.add_row("pandas, the lengths alone", f"{other_s:.1f}", f"{other_mb:,.0f}")
    table.add_row("pandas / page", f"{other_s / page_s:.1f}", f"{other_mb / page_mb:.1f}")
    Console().print(table)
    size = (root / "report.html").stat().st_size
    print(f"report.html: {size / 1e6:.2f} MB (goal < 10), {page_s:.0f} s (goal < 60)")


if __name__ == "__main__":
    main()
