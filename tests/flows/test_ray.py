"""`runner: {kind: ray}` on a cluster of two nodes on this machine: the cluster does the work, the rows are the same.

Skipped where the extra `ray` isn't installed. Not covered: a cluster of several machines.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storage.compare import differences
from storage.workspace import Workspace

pytest.importorskip("prefect_ray")

SETTINGS = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes of one processor each; this process is connected to it."""
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        nodes.add_node(num_cpus=1)
        ray.init(nodes.address, log_to_driver=False)
        yield nodes
        ray.shutdown()
    finally:
        nodes.shutdown()


def test_ranges_mapped_on_ray_give_the_same_rows(stillhouse, replay_recipe: Path, cluster, tmp_path: Path, monkeypatch):
    import ray

    for name, value in SETTINGS.items():
        monkeypatch.setitem(stillhouse.environment, name, value)
    two = ["--until", "select", "--set", "runner.max_workers=2"]
    mapped = ["--set", "runner.kind=ray", "--set", f"runner.address={cluster.address}"]
    stillhouse("run", replay_recipe, "--workspace", tmp_path / "here", *two)
    stillhouse("run", replay_recipe, "--workspace", tmp_path / "there", *two, *mapped)
    assert differences(Workspace.open(tmp_path / "here"), Workspace.open(tmp_path / "there")) == []
    assert [event for event in ray.timeline() if event["cat"] == "task::range"]
