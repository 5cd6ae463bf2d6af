"""`status --watch`: it shows what comes in while it looks, and ends well with Ctrl-C."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from flows.status_watch import Watched, watch


def lines(table):
    shown = StringIO()
    Console(width=160, file=shown).print(table)
    found = [[cell.strip() for cell in line.split("│")] for line in shown.getvalue().splitlines()]
    return {cells[1]: cells[2:-1] for cells in found if len(cells) > 3}


def test_what_came_since_the_last_look(make_house):
    house = make_house(bits=1)
    house.write("sums.jsonl", [{"question": f"What is {n} + {n}?"} for n in range(40)])
    now = [0.0]
    watched = Watched(house.plan(), lambda: now[0])
    before = lines(watched.table())
    assert before["ingest"] == ["0/2", "0", "0", "0", "–", "–"]
    house.run("ingest")
    now[0] = 8.0
    assert lines(watched.table())["ingest"] == ["2/2", "40", "0", "0", "–", "5.0"]
    now[0] = 16.0
    assert lines(watched.table())["ingest"][-1] == "–"  # nothing came


def test_ctrl_c_ends_it_well(make_house, monkeypatch):
    """In the second look; what was shown last stays on the screen."""
    house = make_house()
    house.write("sums.jsonl", [{"question": "What is 1 + 1?"}])
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 2:
            raise KeyboardInterrupt
        house.run("ingest")

    monkeypatch.setattr("flows.status_watch.time.sleep", sleep)
    shown = StringIO()
    watch(house.plan(), Console(width=160, file=shown, force_terminal=False))
    assert len(looks) == 2
    assert "1/1" in next(line for line in shown.getvalue().splitlines() if "ingest" in line)
