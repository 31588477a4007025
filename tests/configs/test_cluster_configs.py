"""The files for clusters: valid by the tools' own models and schemas, and consistent with this project."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

from helpers import ROOT
from softprompts.runs.launch import FSDP

import jsonschema
import kubernetes_validate
import pytest
import yaml
from accelerate.commands.launch import launch_command_parser

CLUSTER = ROOT / "configs" / "cluster"
OPTIONS = {option for action in launch_command_parser()._actions for option in action.option_strings}


def read(name: str) -> Any:
    return yaml.safe_load((CLUSTER / name).read_text(encoding="utf-8"))


def model(kind: str) -> Any:
    """Return the model of Kubeflow's client that reads a manifest."""
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="kubeflow-trainer-api is not installed")
    return {"TrainJob": models.TrainerV1alpha1TrainJob, "JobSet": models.JobsetV1alpha2JobSet}[kind]


@pytest.mark.parametrize("name", ["trainjob.yaml", "jobset.yaml"])
def test_manifests_are_what_the_client_makes_of_them(name: str) -> None:
    manifest = read(name)
    # Its models ignore unknown keys, which would be missing here.
    assert model(manifest["kind"]).from_dict(manifest).to_dict() == manifest


def test_a_misspelt_key_is_noticed() -> None:
    manifest = read("jobset.yaml")
    wrong = manifest | {"spec": manifest["spec"] | {"failurePolicies": {}}}
    assert model("JobSet").from_dict(wrong).to_dict() != wrong


def test_the_job_of_a_jobset_is_valid() -> None:
    (job,) = read("jobset.yaml")["spec"]["replicatedJobs"]
    manifest = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}, **job["template"]}
    kubernetes_validate.validate(manifest, "1.36", strict=True)


def containers(name: str) -> list[dict[str, Any]]:
    """Return the containers that train."""
    spec = read(name)["spec"]
    if name == "trainjob.yaml":
        return [spec["trainer"]]
    return list(spec["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"])


@pytest.mark.parametrize("name", ["trainjob.yaml", "jobset.yaml"])
def test_manifests_fit_this_project(name: str) -> None:
    for container in containers(name):
        for path in re.findall(r"/app/(\S+)", " ".join(container["args"])):
            assert (ROOT / path).is_file(), path
        assert "--resume" in container["args"]
        given = {each["name"]: each.get("value") for each in container["env"] if "value" in each}
        assert given.pop("ACCELERATE_USE_FSDP") == "true"
        supported = {each.variable: each.values for each in FSDP}
        assert all(value in supported[variable] for variable, value in given.items())


def test_skypilot_reads_its_file() -> None:
    schemas = pytest.importorskip("sky.utils.schemas", reason="skypilot is not installed")
    task = read("skypilot.yaml")
    jsonschema.validate(task, schemas.get_task_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(task | {"numnodes": 2}, schemas.get_task_schema())


@pytest.mark.parametrize("name", ["slurm.sbatch", "skypilot.yaml"])
def test_launch_commands_have_options_that_accelerate_knows(name: str) -> None:
    text = (CLUSTER / name).read_text(encoding="utf-8")
    command = re.search(r"accelerate launch (--[^']*?)(?:recipes/|\"\$@\")", text.partition("set -euo")[2] or text)
    assert command
    used = set(re.findall(r"(--\w+)", command[1]))
    assert len(used) >= 6
    assert used <= OPTIONS


def test_files_that_they_name_are_there() -> None:
    for file in CLUSTER.iterdir():
        for path in re.findall(r"\b((?:recipes|configs)/[\w/]+\.(?:py|yaml|sbatch))", file.read_text(encoding="utf-8")):
            assert (ROOT / path).is_file(), f"{file.name}: {path}"


def test_the_batch_script_is_a_script_and_asks_for_what_it_needs() -> None:
    bash = shutil.which("bash")
    assert bash
    script = CLUSTER / "slurm.sbatch"
    assert subprocess.run([bash, "-n", script], capture_output=True, check=False).returncode == 0
    text = script.read_text(encoding="utf-8")
    assert {"--requeue", "--open-mode=append", "--ntasks-per-node=1"} <= set(re.findall(r"^#SBATCH (\S+)", text, re.M))
    for file in CLUSTER.iterdir():
        assert re.search(r"^# (Run: yes|Not run)", file.read_text(encoding="utf-8"), re.MULTILINE), file.name
