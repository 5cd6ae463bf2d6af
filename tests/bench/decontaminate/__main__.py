"""Decontamination: speed, and quality on real text.

    python tests/bench/decontaminate [--questions 1000000] [--items 20000] [--sample 20000]
    python tests/bench/decontaminate --quality [--copies 100] [--half report] [--vectors FOLDER]
    python tests/bench/decontaminate --quality --rewordings FOLDER [--sets gsm8k …]

See speed.py and quality.py for what is measured, reworded.py for the format of rewordings that you bring.
Needs ../shared/data.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(PROJECT), str(Path(__file__).parent)]

import quality  # noqa: E402
import reworded  # noqa: E402
import speed  # noqa: E402
from vectors import KeptVectors  # noqa: E402

from tasks import decontaminate  # noqa: E402

DATA = PROJECT.parent / "shared" / "data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--sample", type=int, default=20_000)
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--copies", type=int, default=100, help="items of each set that copies are made of")
    parser.add_argument("--half", choices=("tune", "report", "both"), default="report")
    parser.add_argument("--sets", nargs="*", choices=tuple(quality.FILES), default=tuple(quality.FILES))
    parser.add_argument("--vectors", type=Path, help="folder for embeddings, the dear part, to use them again")
    parser.add_argument("--rewordings", type=Path, help="folder of JSONL files: benchmark, item, question, answer")
    options = parser.parse_args()
    if options.rewordings and not options.quality:
        parser.error("--rewordings is measured with --quality: give both")
    if not options.quality:
        speed.run(DATA, options.questions, options.items, options.sample)
        return
    decontaminate.embed = KeptVectors(options.vectors, quality.EMBEDDING).embed  # type: ignore[assignment]
    if options.rewordings:
        reworded.measure(DATA, options.rewordings)
    quality.rewordings(DATA, PROJECT / "tests" / "tasks" / "data" / "rewordings.jsonl")
    for name in options.sets:
        for answers in (False, True) if name in ("gsm8k", "math") else (False,):
            quality.measure(DATA, name, options.copies, options.half, answers=answers)
    if "gsm8k" in options.sets:
        quality.measure(DATA, "gsm8k", options.copies, options.half, answers=False, embedded=False)


if __name__ == "__main__":
    main()
