"""One table of methods: all code that lists, names, draws or checks methods reads it; four steps add a method."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from helpers import ROOT, main_in_process, read_result, tiny_flags
from softprompts.config.methods import LoraConfig
from softprompts.config.sections import ModelConfig
from softprompts.errors import UserError
from softprompts.methods.catalog import METHODS, Method
from softprompts.methods.preflight import check_method, main as preflight
from softprompts.reports.pages.style import STYLES
from softprompts.runs.command import cli

import peft
import pytest
from peft import IA3Config, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_an_entry_names_what_is_there(method: Method) -> None:
    assert METHODS[method.name] is method
    assert (ROOT / "recipes" / f"{method.name}.py").is_file()
    assert (ROOT / "configs" / "sentiment" / f"{method.name}.yaml").is_file()
    assert callable(method.smallest())
    assert not method.peft or hasattr(peft, method.peft)
    assert {"decoder", "encoder-decoder", "encoder"} - set(method.kinds) == set(method.refusals)
    text = (ROOT / "recipes" / f"{method.name}.py").read_text(encoding="utf-8")
    assert not method.section or f"    {method.section}: sp." in text


def test_no_two_methods_look_or_are_called_alike() -> None:
    for names in ([m.label for m in METHODS.values()], [(m.colour, m.marker) for m in METHODS.values()]):
        assert len(set(names)) == len(names)
    drawn = {name: STYLES["zero_shot" if name == "hard_prompt" else name] for name in METHODS}
    assert drawn == {name: (method.colour, method.marker) for name, method in METHODS.items()}


def test_the_readme_lists_every_method() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for method in METHODS.values():
        assert f"[{method.label}](docs/recipes/{method.name}.md)" in text, method.name


CHECK = '    sp.check_method("scales", model)\n'
SCALES = '''

from dataclasses import dataclass

from peft import IA3Config, get_peft_model


@dataclass
class ScalesConfig:
    """Learned factors of activations (Liu et al. 2022).

    Args:
        target_modules: names of the layers that get them.
    """

    target_modules: list[str]
'''


def test_a_method_outside_of_the_catalog_is_named() -> None:
    with pytest.raises(UserError, match=r'^check_method: no method "prompt_tunin" \(did you mean "prompt_tuning"\?\)'):
        check_method("prompt_tunin", ModelConfig("anything"))


@pytest.mark.parametrize("listed", [True, False])
def test_a_method_of_ones_own_goes_in_by_the_four_steps(
    listed: bool,
    tiny_model: Path,
    tiny_task: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # 1 and 2: copy the recipe, change the method and its settings.
    recipe = (ROOT / "recipes" / "prompt_tuning.py").read_text(encoding="utf-8")
    for old, new in (
        ("import softprompts as sp\n", f"import softprompts as sp\n{SCALES}"),
        ("    prompt: sp.PromptConfig,", "    scales: ScalesConfig,"),
        ("        prompt=prompt,", "        scales=scales,"),
        ('"prompt_tuning"', '"scales"'),
        ("sp.input_spec(base, prompt.num_virtual_tokens)", "sp.input_spec(base)"),
        ("    start = sp.load_start(base, prompt)  # none, unless prompt.init_adapter names a trained one\n", ""),
        (
            "tuned = sp.add_soft_prompt(base, tokenizer, prompt, seed=this.seed, task=rows, start=start)",
            "tuned = get_peft_model(base, IA3Config(task_type='CAUSAL_LM', feedforward_modules=[], **vars(scales)))",
        ),
    ):
        assert old in recipe
        recipe = recipe.replace(old, new)
    if not listed:
        assert CHECK in recipe
        recipe = recipe.replace(CHECK, "")
    (tmp_path / "scales.py").write_text(recipe, encoding="utf-8")
    # 3: copy the config, fill in the keys.
    config = (ROOT / "configs" / "sentiment" / "prompt_tuning.yaml").read_text(encoding="utf-8")
    start, end = config.index("prompt: #"), config.index("training:")
    own = "scales:\n  target_modules: [k_proj, v_proj]\n\n"
    (tmp_path / "scales.yaml").write_text(config[:start] + own + config[end:], encoding="utf-8")
    # To be checked, named and drawn with the others, it gets a line in the catalog and a module.
    module: Any = ModuleType("softprompts.methods.baselines.scales")
    module.smallest = lambda base, _: get_peft_model(
        base, IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[])
    )
    monkeypatch.setitem(sys.modules, "softprompts.methods.baselines.scales", module)
    refusals: Any = {"encoder": "it is for decoders", "encoder-decoder": "it is for decoders"}
    entry = Method(
        "scales",
        "(IA)3",
        "weights",
        ("decoder",),
        "scales",
        "IA3Config",
        "factors",
        "the same",
        "#000000",
        "*",
        refusals,
    )
    if listed:
        monkeypatch.setitem(METHODS, "scales", entry)
    # 4: launch it.
    spec = importlib.util.spec_from_file_location("recipe_scales", tmp_path / "scales.py")
    assert spec
    assert spec.loader
    recipe_module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "recipe_scales", recipe_module)
    spec.loader.exec_module(recipe_module)
    length = {"training.steps": 3, "training.warmup_steps": 0, "training.eval_every": 3}
    flags = tiny_flags(tiny_model, tiny_task, tmp_path / "run") | length
    pairs = [text for key, value in flags.items() for text in (f"--{key}", str(value))]
    monkeypatch.setattr(sys, "argv", ["scales.py", "--config", str(tmp_path / "scales.yaml"), *pairs])
    cli(recipe_module.main)
    assert read_result(tmp_path / "run")["recipe"] == "scales"
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert isinstance(PeftModel.from_pretrained(base, str(tmp_path / "run" / "adapter")), PeftModel)
    evaluate = ["recipes/evaluate.py", "--config", str(ROOT / "configs/sentiment/evaluate.yaml")]
    scored = tiny_flags(tiny_model, tiny_task, tmp_path / "scored") | {"adapter.path": tmp_path / "run"}
    assert main_in_process([*evaluate, *(t for k, v in scored.items() for t in (f"--{k}", str(v)))]) == 0
    capsys.readouterr()
    assert preflight([str(tiny_model)]) == 0
    assert ("  scales                   yes" in capsys.readouterr().out) is listed


def test_lora_is_tried_with_its_own_settings(tiny_model: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    model = METHODS["lora"].smallest()(base, LoraConfig(target_modules=["q_proj"]))
    assert {name.split(".lora_")[0].rpartition(".")[2] for name, _ in model.named_parameters() if "lora_" in name} == {
        "q_proj"
    }
