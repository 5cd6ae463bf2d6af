"""A generate step whose workspace lies in an object store, under SIGKILL and a store that misbehaves.

Proves: what a segment held when the process was killed isn't asked again, each request has one row at the end, and no
segment is left. The store is a real S3 server on loopback that answers 503 and cuts connections meanwhile.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from storage.schemas import RESPONSES
from tasks.shard_log import count_rows, log_folder, logs, read_log
from tests.faults.bad_server import BadServer

PROJECT = Path(__file__).resolve().parents[2]
QUESTIONS, SAMPLES, CONCURRENCY = 400, 4, 16

RUN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from conftest import House
from storage.place import place
from tasks import segment_log
segment_log.SEGMENT_ROWS, segment_log.SEGMENT_S = 100, 2.0
House(Path({base!r}), {recipe!r}, place({root!r}), {bits}).run("generate")
"""


def wait_for_rows(folder, process, number):
    """Until the segments hold so many responses."""
    until = time.monotonic() + 120
    while sum(map(count_rows, logs(folder))) < number:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.1)


def test_what_a_segment_held_is_not_asked_again_after_a_sigkill(make_house, s3):
    with BadServer(0.05, pause_s=0.02) as server:
        teacher = {"name": "t", "engine": "openai", "model": "m", "base_url": server.url, "samples": SAMPLES,
                   "concurrency": CONCURRENCY, "timeout_s": 4}  # fmt: skip
        house = make_house(bits=1, teachers=[teacher])
        house.root = s3.place()
        house.write("sums.jsonl", [{"question": f"What is {number} + {number}?"} for number in range(QUESTIONS)])
        house.run("curate")
        folder = log_folder(house.root, "generate.t")
        script = RUN.format(tests=str(PROJECT / "tests"), base=str(house.base), recipe=house.recipe,
                            root=str(house.root), bits=1)  # fmt: skip
        for match, do in (("unfinished", "503"), ("unfinished", "cut"), ("unfinished", "lose")):
            s3.fault(do, "PUT", match, times=2)
        with subprocess.Popen([sys.executable, "-c", script], cwd=PROJECT) as process:
            wait_for_rows(folder, process, 250)
            process.kill()
        held = [row[0] for log in logs(folder) for row in read_log(log, RESPONSES.names)]
        server.settled()
        assert len(held) == len(set(held)) >= 250 and set(held) <= server.delivered.keys()
        asked = {key: server.asked[key] for key in held}
        lost = len(server.delivered.keys() - set(held))
        house.run("generate")
        while house.run("generate"):
            pass
    assert {key: server.asked[key] for key in held} == asked
    assert sum(len(times) - 1 for times in server.delivered.values()) <= lost
    rows = house.rows("generate.t", "responses")
    found = Counter((row["question_id"], row["sample_index"]) for row in rows)
    assert len(found) == SAMPLES * QUESTIONS and set(found.values()) == {1}
    assert logs(folder) == [] and s3.seen()["lose"] >= 2
