"""A reasoning-gym generator as a program: `python -m tasks.generator`, settings as JSON on stdin, records on stdout.

It runs in a process of its own because some generators draw from sets, whose order depends on Python's hash seed: the
same settings gave other questions in every process. The caller fixes that seed, so that a generator is a function of
its settings (law 11). Wrong settings: exit status 2 and one line on stderr.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    import reasoning_gym  # slow to import

    asked = json.load(sys.stdin)
    try:
        items = reasoning_gym.create_dataset(
            asked["dataset"], size=asked["size"], seed=asked["seed"], **asked["config"]
        )
    except (ValueError, TypeError, AssertionError) as fault:
        print(" ".join(str(fault).split()), file=sys.stderr)
        sys.exit(2)
    for number in range(asked["size"]):
        item = items[number]
        answer = None if item["answer"] is None else str(item["answer"])
        record = {"question": item["question"], "ground_truth": answer, "metadata": item["metadata"]}
        print(json.dumps(record, default=str))


if __name__ == "__main__":
    main()
