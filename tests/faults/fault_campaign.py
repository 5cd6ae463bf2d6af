"""Fault campaign: what a run rests on is killed at random moments, a hundred times, on the whole road but training.

    python tests/faults/fault_campaign.py --faults 100

Faults, each a SIGKILL: `flow` (the run's whole process group; the same command is then given again), `process` (one
process that the run started), `prefect` (the API server that Prefect starts for a run), `container` (one sandbox),
`dockerd` (of the campaign's own, started again), `teacher` (the server, started again). A round ends when a run has
finished; its tables must equal, row by row, those of a run that nothing befell, books balanced, nothing left running.
Then a new workspace is begun. Prints a table of faults, what became of the run, rows lost, rows twice; exits 1 if a
row was lost or stands twice, or anything else differs. Needs root and dockerd.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import docker
import psutil
from rich.console import Console
from rich.table import Table

from sandbox import DEFAULT_IMAGE
from tests.faults.fault_world import Run, Teacher, faults_found, write_recipe
from tests.sandbox.own_engine import Engine

KINDS = ("flow", "process", "prefect", "container", "dockerd", "teacher")
GOES_ON, PENDING, ENDED = "went on", "left units pending; the next run finished", "run ended; the next run finished"


class Campaign:
    """One engine, one teacher, many runs."""

    def __init__(self, folder: Path, engine: Engine, teacher: Teacher, seed: int) -> None:
        self.folder, self.engine, self.teacher = folder, engine, teacher
        self.draw = random.Random(seed)
        self.recipe = write_recipe(folder, teacher.url)
        self.log = folder / "log"
        self.outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
        self.rows = {kind: [0, 0] for kind in KINDS}
        self.wrong: list[str] = []

    def start(self, workspace: Path) -> Run:
        return Run(self.recipe, workspace, self.log, DOCKER_HOST=self.engine.url)

    def rarest(self) -> str:
        """A kind drawn at random, the likelier the seldomer it was met."""
        return self.draw.choices(KINDS, [(1 + self.outcomes[kind].total()) ** -2 for kind in KINDS])[0]

    def strike(self, kind: str, run: Run) -> bool:
        """Whether there was something of the kind to be killed."""
        if kind == "flow":
            run.kill()
        elif kind == "teacher":
            self.teacher.kill()
            time.sleep(self.draw.uniform(0, 2))
            self.teacher.start()
        elif kind == "dockerd":
            self.engine.end(signal.SIGKILL)
            time.sleep(self.draw.uniform(0, 2))
            self.engine.start()
        elif kind == "container":
            return self._kill_container()
        else:
            return self._kill_child(run, prefect=kind == "prefect")
        return True

    def _kill_container(self) -> bool:
        if not (names := sorted(self.engine.containers())):
            return False
        try:
            with self.engine.client() as client:
                client.api.kill(self.draw.choice(names))
        except docker.errors.APIError:
            return False  # it went by itself meanwhile
        return True

    def _kill_child(self, run: Run, *, prefect: bool) -> bool:
        found = []
        for one in run.children():
            try:
                if ("prefect.server" in " ".join(one.cmdline())) == prefect:
                    found.append(one)
            except psutil.Error:
                continue
        if not found:
            return False
        try:
            self.draw.choice(sorted(found, key=lambda one: one.pid)).kill()
        except psutil.Error:
            return False
        return True

    def round(self, number: int, most: int, gap_s: float) -> int:
        """Runs on one workspace until it is finished; returns how many faults it met."""
        workspace = self.folder / f"round-{number}"
        struck: list[str] = []
        mine: list[str] = []
        missed = False
        run = self.start(workspace)
        while True:
            far = 4 if self.draw.random() < 0.3 else 1  # so that runs which faults end get far now and then
            wait = self.draw.uniform(0.3, far * gap_s) if len(struck) < most else None
            try:
                code = run.process.wait(0.5 if missed else wait)
            except subprocess.TimeoutExpired:
                kind = self.rarest()
                missed = not self.strike(kind, run)
                if not missed:  # else there is none of that kind at the moment: another one soon
                    struck.append(kind)
                    mine.append(kind)
                    print(f"round {number}: {kind}", flush=True)
                continue
            self._note(mine, code)
            if left := run.left():
                self.wrong.append(f"round {number}: left running: {left}")
            if code == 0:
                break
            if code not in (-signal.SIGKILL, 3) and not mine:
                self.wrong.append(f"round {number}: a run that nothing befell ended with {code}")
                break
            run, mine, missed = self.start(workspace), [], False
        self._check(number, workspace, struck)
        return len(struck)

    def _note(self, kinds: list[str], code: int) -> None:
        """The outcome of a run counts for each fault that it met."""
        ended = "flow" in kinds or code not in (0, 3)
        for kind in kinds:
            self.outcomes[kind][ENDED if ended else PENDING if code == 3 else GOES_ON] += 1

    def _check(self, number: int, workspace: Path, struck: list[str]) -> None:
        lost, twice, found = faults_found(self.folder / "whole", workspace)
        for kind in set(struck):
            self.rows[kind][0] += lost
            self.rows[kind][1] += twice
        self.wrong += [f"round {number} ({', '.join(struck)}): {one}" for one in found[:10]]
        print(f"round {number}: {len(struck)} faults, {lost} rows lost, {twice} twice, {len(found)} differences",
              flush=True)  # fmt: skip
        shutil.rmtree(workspace)

    def table(self) -> Table:
        table = Table(title="faults", title_justify="left")
        for name in ("SIGKILL of", "times", GOES_ON, PENDING, ENDED, "rows lost", "rows twice"):
            table.add_column(name, justify="left" if name == "SIGKILL of" else "right")
        for kind, outcomes in self.outcomes.items():
            counts = [outcomes[name] for name in (GOES_ON, PENDING, ENDED)]
            table.add_row(kind, *map(str, (sum(counts), *counts, *self.rows[kind])))
        return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--a-round", type=int, default=8, help="faults until a round may finish undisturbed")
    parser.add_argument(
        "--gap", type=float, default=6.0, help="seconds between two faults, at most; at times four times that"
    )
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args()
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda *_: sys.exit("stopped"))  # so that the engine and the teacher end
    print(f"seed {given.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="stillhouse-faults-"))
    (folder / "engine").mkdir()
    engine = Engine(folder / "engine")
    try:
        engine.start()
        engine.load(DEFAULT_IMAGE)
        with Teacher(folder) as teacher:
            campaign = Campaign(folder, engine, teacher, given.seed)
            started = time.monotonic()
            code, text = campaign.start(folder / "whole").wait()
            if code:
                sys.exit(f"the undisturbed run ended with {code}:\n{text[-3000:]}")
            print(f"undisturbed: {time.monotonic() - started:.1f} s", flush=True)
            done = number = 0
            while done < given.faults and not campaign.wrong:
                number += 1
                done += campaign.round(number, min(given.a_round, given.faults - done), given.gap)
            again = sum(campaign.teacher.delivered().values()) - len(campaign.teacher.delivered()) * (number + 1)
    finally:
        engine.remove()
    Console(width=140).print(campaign.table())
    print(f"{done} faults in {number} rounds, {time.monotonic() - started:.0f} s; {again} answers paid for again")
    if campaign.wrong:
        sys.exit("FAILED, see " + str(folder) + ":\n" + "\n".join(campaign.wrong))
    shutil.rmtree(folder)
    print("every round row-identical to the undisturbed run, books balanced, nothing left behind")


if __name__ == "__main__":
    main()
