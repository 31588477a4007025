"""Private parts of other libraries that this project uses have not changed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from helpers import load_base, load_tuned, method_engine
from made_models import make_base
from softprompts.models import peft_compat
from softprompts.models.peft_compat import (
    LimitedNumbers,
    as_loaded,
    attention_name,
    changes_of,
    eager_attention,
    encoder_of,
    forget_gguf,
    keep_four_bit_weights,
    on_building,
    peft_model,
    without_prompt,
)

import bitsandbytes
import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig
from peft.utils import AuxiliaryTrainingWrapper, get_peft_model_state_dict
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel
from transformers.models.llama import modeling_llama


@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_the_name_of_the_attention_is_that_which_was_set(tiny_model: Path, name: str) -> None:
    base, _ = load_base(tiny_model)
    base.set_attn_implementation(name)
    assert attention_name(base) == attention_name(base.config) == name


def test_the_plain_attention_is_that_of_the_layers_own_module(tiny_model: Path) -> None:
    base, _ = load_base(tiny_model)
    assert eager_attention(base.model.layers[0].self_attn) is modeling_llama.eager_attention_forward


def test_a_config_forgets_where_it_was_read_from() -> None:
    config = LlamaConfig(quantization_config={"quant_method": "gguf"}, _model_name_or_path="a file")
    forget_gguf(config)
    assert not {"quantization_config", "_model_name_or_path"} & config.to_dict().keys()


def test_the_instructions_of_this_processor_are_known() -> None:
    known = torch.cpu.get_capabilities()
    if known["architecture"] != "x86_64":
        pytest.skip("named otherwise on other processors")
    assert peft_compat.has_bfloat16_instructions() == bool(known["avx512_bf16"] or known["amx_tile"])


def test_four_bit_weights_keep_their_form() -> None:
    layer = bitsandbytes.nn.Linear4bit(8, 8)
    assert layer.support_avx512bf16_for_cpu in (0, 1), "the flag is still called so"
    layer.support_avx512bf16_for_cpu = True
    keep_four_bit_weights(torch.nn.Sequential(layer, torch.nn.Linear(8, 8)))
    assert layer.support_avx512bf16_for_cpu is False


def test_changes_in_place_are_counted() -> None:
    tensor = torch.zeros(3)
    with torch.inference_mode():
        uncounted = torch.zeros(3)
    before = changes_of([tensor, uncounted])
    tensor.add_(1)
    assert changes_of([tensor, uncounted]) == before + 1


def test_a_peft_model_of_the_kind_that_is_meant(tiny_model: Path) -> None:
    base, _ = load_base(tiny_model)
    assert isinstance(peft_model(base, LoraConfig(task_type="CAUSAL_LM")), PeftModel)


def test_an_adapters_tensors_have_the_names_of_the_model(tiny_model: Path) -> None:
    model = method_engine(tiny_model, "lora").model
    own = get_peft_model_state_dict(model)
    assert as_loaded(model, own, "default").keys() == own.keys()


def test_the_module_of_a_soft_prompt_holds_its_embeddings(tiny_model: Path) -> None:
    model, _ = load_tuned(tiny_model, tokens=5)
    assert torch.equal(encoder_of(model).embedding.weight, model.get_prompt(1)[0])


def test_an_encoders_prompt_and_classifier_can_be_switched_off() -> None:
    base = make_base("bert")
    ids = SimpleNamespace(input_ids=torch.tensor([[5, 6, 7]]), attention_mask=torch.ones(1, 3, dtype=torch.long))
    torch.manual_seed(0)
    expected = base(**vars(ids)).logits
    model = peft_model(base, PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4)).eval()
    with torch.no_grad():
        for wrapper in (m for m in model.modules() if isinstance(m, AuxiliaryTrainingWrapper)):
            for parameter in wrapper.modules_to_save.parameters():
                parameter.add_(1)
    tuned = model(**vars(ids)).logits
    assert not torch.allclose(tuned, expected)
    with without_prompt(model):
        assert not model.has_active_enabled_adapter
        assert torch.equal(model(**vars(ids)).logits, expected)
    assert model.has_active_enabled_adapter
    assert torch.equal(model(**vars(ids)).logits, tuned)


def test_a_model_is_changed_before_its_weights_are_read(tiny_model: Path) -> None:
    own = PreTrainedModel.__dict__.get("maybe_distribute_model")
    seen = []

    def change(model: PreTrainedModel) -> None:
        seen.append({parameter.device.type for parameter in model.parameters()})

    with on_building(change) as arguments:
        model = AutoModelForCausalLM.from_pretrained(tiny_model, **arguments)
    assert seen == [{"meta"}]
    assert not hasattr(model.config, "distributed_config")
    assert PreTrainedModel.__dict__.get("maybe_distribute_model") is own
    plain = AutoModelForCausalLM.from_pretrained(tiny_model)
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name


def test_tensors_beyond_a_limit_are_refused_before_they_need_memory() -> None:
    generator = torch.Generator().manual_seed(0)
    expected = torch.rand(3, generator=torch.Generator().manual_seed(0))
    with LimitedNumbers(30) as limited:
        assert torch.equal(torch.rand(3, generator=generator), expected)
        made = torch.nn.Linear(4, 2)
        assert limited.made == 3 + 8 + 2
        torch.zeros_like(made.weight).to(torch.bfloat16).repeat(100, 1)  # made from a tensor
        torch.randperm(5), torch.arange(5), torch.eye(2)
        assert limited.made == 27
    for make in (
        lambda: torch.zeros(2**40),
        lambda: torch.arange(2**40),
        lambda: torch.nn.Embedding(2**30, 2**10),
        lambda: [torch.empty(7) for _ in range(5)],
    ):
        with (
            LimitedNumbers(30),
            pytest.raises(ValueError, match=r"^it needs [0-9,]+ numbers or more in memory; at most"),
        ):
            make()
