"""Figures for a monitor: what Prometheus reads is what books and tables say, and a rate is over one run's time."""

from __future__ import annotations

from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families

from flows.metrics import FILE, step_figures, workspace_figures
from storage.manifest import Book, Head, Inputs, Part
from storage.workspace import Workspace


def samples(text):
    """(name, labels without the workspace) → value."""
    found = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            labels = {key: value for key, value in one.labels.items() if key != "workspace"}
            found[one.name, tuple(sorted(labels.items()))] = one.value
    return found


def test_the_command_and_the_file_say_what_the_tables_hold(stillhouse, finished):
    text = stillhouse("metrics", finished.workspace)
    found = samples(text)
    place = Workspace.open(finished.workspace)
    for step in ("generate.good", "verify.poor"):
        rows = sum(part.rows for head in place.heads(step).values() for part in head.data())
        assert found["stillhouse_step_rows", (("step", step),)] == rows > 0
        assert found["stillhouse_step_rows_per_second", (("step", step),)] > 0
    fate = {labels[0][1]: value for (name, labels), value in found.items()
            if name == "stillhouse_step_units" and dict(labels)["step"] == "verify.poor"}  # fmt: skip
    assert fate == {"in": 36, "out": 36, "pending": 0}
    left = samples((finished.workspace / FILE).read_text())
    assert left == found


def test_steps_come_in_the_order_of_their_commits(finished):
    times = [one.finished for one in workspace_figures(Workspace.open(finished.workspace))]
    assert times == sorted(times)


def head(shard, created, **more):
    when = f"2026-01-01T00:00:{created:02}+00:00"
    part, book = Part("p", "data", 60, 1, "", ""), Book("request", 60, 50, {"refused": 6}, 4)
    tokens = {"completion_tokens": 600}
    made = Head("generate.t", shard, 1, Inputs("1", {}, {}), "", (part,), (book,), "", 10.0, "night", when, {}, tokens)
    return replace(made, **more)


def test_a_rate_is_over_the_time_of_the_run_that_came_last():
    """Two shards that overlap, from second 10 to 30, and one of an earlier run that counts in the sums alone."""
    heads = [head("0", 20), head("1", 30), head("2", 5, run_id="before")]
    found = step_figures("generate.t", heads)
    assert (found.shards, found.rows, found.tokens, found.seconds) == (3, 180, 1800, 30.0)
    assert (found.rows_per_second, found.tokens_per_second) == (120 / 20, 1200 / 20)
    assert found.dropped == {("request", "refused"): 18} and found.pending == 12


def test_a_slice_made_within_a_second_has_a_rate_by_its_own_clock():
    found = step_figures("generate.t", [head("0", 20, seconds=0.5)])
    assert found.rows_per_second == 120
