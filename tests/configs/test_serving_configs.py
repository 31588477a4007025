"""The files for containers and clusters: valid by the tools' own schemas, and consistent with this project."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from helpers import ROOT
from softprompts.config.tools import ServeConfig

import kubernetes_validate
import pytest
import yaml

SERVING = ROOT / "configs" / "serving"
MANIFESTS: list[dict[str, Any]] = list(yaml.safe_load_all((SERVING / "kubernetes.yaml").read_text(encoding="utf-8")))
DOCKERFILE = ROOT / "docker" / "Dockerfile"


@pytest.mark.parametrize("manifest", MANIFESTS, ids=[manifest["kind"] for manifest in MANIFESTS])
def test_kubernetes_manifests_are_valid(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, "1.36", strict=True)


def test_a_misspelt_manifest_is_refused() -> None:
    wrong = MANIFESTS[0] | {"spec": MANIFESTS[0]["spec"] | {"replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.36", strict=True)


def test_the_deployment_fits_the_server() -> None:
    pod = MANIFESTS[0]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    flags = dict(zip(container["args"][::2], container["args"][1::2], strict=True))
    settings = {
        name.removeprefix("serve."): value for name, value in ((k.removeprefix("--"), v) for k, v in flags.items())
    }
    assert set(settings) <= set(ServeConfig.__dataclass_fields__)
    assert pod["terminationGracePeriodSeconds"] > float(settings["drain"]), "else requests are cut off"
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    for path in (settings["folder"], settings["keys_file"]):
        assert any(Path(path).is_relative_to(mount) for mount in mounts)


def test_what_the_image_copies_is_there() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        for name in line.split():
            assert (ROOT / name).exists(), name


def test_the_dockerfile_passes_its_linter() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_commands_of_vllm_leave_out_the_base_models_sampling() -> None:
    """vLLM would take a temperature or a penalty of the base model as the default of every request."""
    files = [*(ROOT / "docs").glob("*.md"), *SERVING.glob("*.yaml")]
    texts = [file.read_text(encoding="utf-8").replace("\\\n", " ") for file in files]
    commands = [line for text in texts for line in text.splitlines() if re.match(r"\s*vllm serve ", line)]
    assert len(commands) >= 5
    assert [command for command in commands if "--generation-config vllm" not in command] == []
