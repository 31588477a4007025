"""The launch files in configs/accelerate: valid keys, a true header, and the two for CPUs start as described."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from softprompts.runs.launch import check_launch

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import launch_command_parser

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))
LAUNCH_OPTIONS = {action.dest for action in launch_command_parser()._actions}
RUN_HERE = {"cpu.yaml", "fsdp2.yaml", "multi_cpu.yaml"}

each_config = pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)


def head(config: Path) -> str:
    """Return the comment at the beginning of a config, without its # signs and line ends."""
    lines = config.read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    assert all(line.startswith("#") for line in lines), f"{config.name} does not begin with a comment"
    return " ".join(line.lstrip("#").strip() for line in lines)


def test_every_topology_is_here() -> None:
    names = ["cpu", "multi_cpu", "gpu", "multi_gpu", "multi_node", "fsdp2"]
    assert {path.stem for path in CONFIGS} == set(names)


@each_config
def test_accelerate_knows_every_key(config: Path) -> None:
    settings = load_config_from_file(str(config))
    assert isinstance(settings, ClusterConfig)
    assert settings.num_processes % settings.num_machines == 0
    # Accelerate checks only the outer keys; the inner ones become options of `accelerate launch`, known or not.
    for section in (settings.fsdp_config, settings.deepspeed_config):
        assert set(section or {}) <= LAUNCH_OPTIONS


def test_a_misspelt_key_fails(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(CONFIGS[0].read_text(encoding="utf-8") + "num_procesess: 2\n", encoding="utf-8")
    with pytest.raises(ValueError, match="num_procesess"):
        load_config_from_file(str(wrong))


@each_config
def test_head_has_its_own_command_and_says_whether_it_was_run(config: Path) -> None:
    text = head(config)
    command = re.search(r"accelerate launch --config_file (\S+) .*?(recipes/\S+\.py) --config (\S+)", text)
    assert command, f"{config.name}: no launch command in its head"
    assert command[1] == str(config.relative_to(ROOT))
    assert (ROOT / command[2]).is_file()
    assert (ROOT / command[3]).is_file()
    assert ("Run: yes" in text) == (config.name in RUN_HERE)
    assert ("Not run, " in text) == (config.name not in RUN_HERE)


def test_recipes_support_every_key_of_the_sharded_one(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_config_from_file(str(ROOT / "configs" / "accelerate" / "fsdp2.yaml"))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    for key, value in settings.fsdp_config.items():
        monkeypatch.setenv(key.upper(), str(value))
    check_launch()


@pytest.mark.slow
# A script of one line meets others with FSDP on GPUs only; tests/recipes/test_sharded.py starts a recipe with its file.
@pytest.mark.parametrize("name", sorted(RUN_HERE - {"fsdp2.yaml"}))
def test_starts_as_many_processes_as_it_says(name: str, tmp_path: Path) -> None:
    config = ROOT / "configs" / "accelerate" / name
    script = tmp_path / "count.py"
    script.write_text(
        "import torch\n"
        "from accelerate import Accelerator\n"
        "accelerator = Accelerator()\n"
        "total = accelerator.reduce(torch.ones(()), 'sum')\n"
        "accelerator.print('processes', int(total), accelerator.device.type)\n"
        "accelerator.end_training()\n",
        encoding="utf-8",
    )
    # Only the variables that the command in the header sets, without the machine's own.
    variables = dict(re.findall(r"(ACCELERATE_\w+)=(\S+) accelerate launch", head(config)))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ACCELERATE_")} | variables
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), str(script)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"processes {load_config_from_file(str(config)).num_processes} cpu" in done.stdout
