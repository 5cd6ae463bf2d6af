"""The files in deploy/ for Prefect: every placeholder of a job template has a variable, every entrypoint is a flow.

Not covered: whether a GPU container or a cluster takes the jobs; neither is here.
"""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import prefect
import pytest
import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_job_template_uses_its_variables(kind):
    template = json.loads((DEPLOY / kind / "gpu-pool.json").read_text())
    used = set(re.findall(r"{{ (\w+) }}", json.dumps(template["job_configuration"])))
    assert used == set(template["variables"]["properties"])


@pytest.mark.parametrize("file", ["prefect.yaml", "prefect-container.yaml"])
def test_every_entrypoint_is_a_flow(file):
    deployments = yaml.safe_load((DEPLOY / file).read_text())["deployments"]
    for one in deployments:
        path, _, name = one["entrypoint"].partition(":")
        flow = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)
        assert isinstance(flow, prefect.Flow)
        assert set(one.get("parameters", {})) <= set(flow.parameters.properties)


def test_the_default_deployment_is_in_both_files():
    from flows.recipe import RunnerSettings

    flow, _, name = RunnerSettings().deployment.partition("/")
    for file in ("prefect.yaml", "prefect-container.yaml"):
        deployments = yaml.safe_load((DEPLOY / file).read_text())["deployments"]
        entrypoint = next(one["entrypoint"] for one in deployments if one["name"] == name)
        assert getattr(importlib.import_module("flows.workers"), entrypoint.partition(":")[2]).name == flow
