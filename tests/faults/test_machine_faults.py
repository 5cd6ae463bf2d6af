"""What a machine does to a run: a full disk, a read-only workspace, a clock that jumps, a second run at once.

All of it for real: a small tmpfs, a read-only mount, a clock shifted under the process by a preloaded library. Proves
that a run ends with words that name the remedy, that what is committed stays readable, and that the run after it ends
with the same rows as one that nothing befell. Kills are in fault_campaign.py. Mounts need root.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.fault_world import Run, Teacher, command, faults_found, write_recipe

CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long long *shift;
static int (*real_clock)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("CLOCK_SHIFT"), O_RDONLY);
    shift = mmap(0, sizeof *shift, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    real_clock = dlsym(RTLD_NEXT, "clock_gettime");
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int status = real_clock(clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += *shift;
    return status;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec fine;
    clock_gettime(CLOCK_REALTIME, &fine);
    now->tv_sec = fine.tv_sec; now->tv_usec = fine.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec fine;
    clock_gettime(CLOCK_REALTIME, &fine);
    if (out) *out = fine.tv_sec;
    return fine.tv_sec;
}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Teacher, Path]]:
    """A recipe, its teacher, and the workspace of a run that nothing befell."""
    folder = tmp_path_factory.mktemp("world")
    with Teacher(folder) as teacher:
        recipe = write_recipe(folder, teacher.url, sums=100, programs=8)
        code, text = Run(recipe, folder / "whole", folder / "whole.log").wait()
        assert code == 0, text
        yield recipe, teacher, folder / "whole"


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts on a folder of the test, unmounted at its end."""
    if os.geteuid():
        pytest.skip("mounts need root")
    mounted = []

    def make(*arguments: str, on: str = "mounted") -> Path:
        place = tmp_path / on
        place.mkdir(exist_ok=True)
        subprocess.run(["mount", *arguments, str(place)], check=True)
        mounted.append(place)
        return place

    yield make
    for place in mounted:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def same(whole: Path, other: Path) -> None:
    assert faults_found(whole, other) == (0, 0, [])


@pytest.mark.parametrize("kilobytes", [250, 900])
def test_a_full_disk_ends_the_run_and_with_room_it_goes_on(world, mount, tmp_path: Path, kilobytes: int) -> None:
    recipe, _, whole = world
    disk = mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs")
    code, text = Run(recipe, disk / "workspace", tmp_path / "log").wait()
    assert code == 1, text
    assert "No space left on device" in text and "; make room on that disk, then run" in text, text[-2000:]
    assert "Traceback" not in text
    subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
    code, text = Run(recipe, disk / "workspace", tmp_path / "log").wait()
    assert code == 0, text
    same(whole, disk / "workspace")


def test_a_read_only_workspace_can_be_read_and_a_run_says_what_is_wrong(world, mount, tmp_path) -> None:
    recipe, _, whole = world
    shutil.copytree(whole, tmp_path / "whole")
    mount("--bind", str(tmp_path / "whole"), on="frozen")
    frozen = tmp_path / "frozen"
    subprocess.run(["mount", "-o", "remount,bind,ro", str(frozen)], check=True)
    before = sorted(str(path) for path in frozen.rglob("*"))
    assert "nothing to do" in command("run", recipe, "--workspace", frozen, home=tmp_path / "prefect")
    assert "balanced" in command("status", frozen, home=tmp_path / "prefect")
    assert "216" in command("sql", frozen, "select count(*) from responses", home=tmp_path / "prefect")
    more = ("--set", "teachers.0.samples=3")
    told = command("run", recipe, "--workspace", frozen, *more, home=tmp_path / "prefect", code=1)
    assert "Read-only file system" in told and "mount it writable" in told and "Traceback" not in told
    assert sorted(str(path) for path in frozen.rglob("*")) == before


def test_a_clock_that_jumps_changes_no_row(world, tmp_path: Path) -> None:
    """Three years ahead, then three years back, then an hour behind, in the middle of generation."""
    recipe, teacher, whole = world
    (tmp_path / "clock.c").write_text(CLOCK)
    library, shift = tmp_path / "clock.so", tmp_path / "shift"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "clock.c", "-ldl"], check=True)
    shift.write_bytes(struct.pack("q", 0))
    before = sum(teacher.delivered().values())
    run = Run(recipe, tmp_path / "workspace", tmp_path / "log", LD_PRELOAD=str(library), CLOCK_SHIFT=str(shift))
    for answers, seconds in ((30, 90_000_000), (80, -90_000_000), (150, -3600)):
        wait_for(run, lambda most=answers: sum(teacher.delivered().values()) > before + most)
        with shift.open("r+b") as file:  # in place: the processes have it mapped
            file.write(struct.pack("q", seconds))
    code, text = run.wait()
    assert code == 0, text
    same(whole, tmp_path / "workspace")


def wait_for(run: Run, true: Callable[[], bool]) -> None:
    while not true():
        assert run.process.poll() is None, run.log.read_text()
        time.sleep(0.01)


def test_two_runs_at_once_pay_for_nothing_twice(world, tmp_path: Path) -> None:
    recipe, teacher, whole = world
    before = teacher.delivered()
    runs = [Run(recipe, tmp_path / "workspace", tmp_path / f"log{n}") for n in range(2)]
    ended = [run.wait() for run in runs]
    codes = sorted(code for code, _ in ended)
    assert codes in ([0, 0], [0, 1]), ended
    if codes == [0, 1]:
        assert "another run" in next(text for code, text in ended if code)
    same(whole, tmp_path / "workspace")
    assert max((teacher.delivered() - before).values()) == 1
