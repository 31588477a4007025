"""Tiny random models of many architectures."""

from __future__ import annotations

from typing import Any

from softprompts.models.loading import AUTO, kind_of

import torch
from transformers import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY = 100
# Settings that a config does not have are ignored.
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    # The default 0.02, and an output embedding tied to the input's, would hide differences: logits would hardly
    # depend on what was read, and the most likely token would be the last one again.
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
}
# Attention, and states of fixed size, in one layer or in different layers.
STATES = {
    "falcon_h1": {"head_dim": 8, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
}
HEADS, WINDOW = {"head_dim": 8}, {"sliding_window": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
GEMMA = HEADS | WINDOW | {"query_pre_attn_scalar": 8}
GRANITE = {
    "embedding_multiplier": 12.0,
    "attention_multiplier": 0.1,
    "residual_multiplier": 0.22,
    "logits_scaling": 0.5,
}
LOCAL = {"attention_types": [[["global", "local"], 1]], "window_size": 8}

# model_type: well-known models of that type, and settings in addition to the common ones.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BERT", {}),
    "bloom": ("BLOOM, BLOOMZ", {}),
    "cohere": ("Command R, Aya 23", {}),
    "cohere2": ("Command R7B, Command A", WINDOW | {"num_hidden_layers": 4}),
    "falcon": ("Falcon 7B", {}),
    "gemma": ("Gemma, CodeGemma", HEADS),
    "gemma2": ("Gemma 2", GEMMA),
    "gemma3_text": ("Gemma 3 270M and 1B", GEMMA | {"layer_types": ["sliding_attention", "full_attention"]}),
    "glm": ("GLM-4 9B, GLM-Edge", HEADS),
    "glm4": ("GLM-4-0414, GLM-Z1", HEADS),
    "gpt2": ("GPT-2, DistilGPT2", {}),
    "gpt_bigcode": ("StarCoder, SantaCoder", {}),
    "gpt_neo": ("GPT-Neo, TinyStories", LOCAL),
    "gpt_neox": ("Pythia, GPT-NeoX 20B", {}),
    "gpt_oss": ("gpt-oss 20B and 120B", HEADS | WINDOW | LOCAL_EXPERTS),
    "gptj": ("GPT-J 6B", {"rotary_dim": 4}),
    "granite": ("Granite 3", GRANITE),
    "llama": ("Llama 2 and 3, SmolLM2, TinyLlama", {}),
    "mamba": ("Mamba 130M to 2.8B", {"state_size": 4}),
    "mistral": ("Mistral 7B", WINDOW),
    "mixtral": ("Mixtral 8x7B", LOCAL_EXPERTS),
    "mpt": ("MPT 7B", {}),
    "olmo2": ("OLMo 2", {}),
    "opt": ("OPT, Galactica", {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.2}),
    "phi": ("Phi-1.5, Phi-2", {}),
    "phi3": ("Phi-3, Phi-4", WINDOW),
    "qwen2": ("Qwen1.5, Qwen2, Qwen2.5", {}),
    "qwen2_moe": ("Qwen1.5-MoE, Qwen2 57B-A14B", EXPERTS | {"shared_expert_intermediate_size": 32}),
    "qwen3": ("Qwen3", HEADS),
    "qwen3_moe": ("Qwen3 30B-A3B", HEADS | EXPERTS),
    "smollm3": ("SmolLM3", {"num_hidden_layers": 4}),
    "stablelm": ("StableLM 2", {}),
    "starcoder2": ("StarCoder2", WINDOW),
    "t5": ("T5, FLAN-T5", {"d_kv": 8, "d_ff": 64, "num_decoder_layers": 2, "decoder_start_token_id": 0}),
}


def make_config(model_type: str) -> PretrainedConfig:
    """Return the settings of a tiny model."""
    kind = CONFIG_MAPPING[model_type]
    known = {*kind().to_dict(), *kind.attribute_map}
    return kind(**{key: value for key, value in COMMON.items() if key in known} | ARCHITECTURES[model_type][1])


def make_base(model_type: str) -> Any:
    """Return a tiny random model, frozen and in evaluation mode."""
    config = make_config(model_type)
    torch.manual_seed(0)
    model = AUTO[kind_of(config)].from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # biases of 0 and scales of 1 would not show whether they are used
            torch.nn.init.normal_(parameter, parameter.mean().item(), 0.1)
    if kind_of(config) != "encoder":
        model.generation_config.eos_token_id = None  # all rows continue to the last token
    return model.eval().requires_grad_(False)
