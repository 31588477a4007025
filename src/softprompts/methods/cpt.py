"""Context-aware prompt tuning, CPT: the embeddings of a few solved rows, moved by little (Blau et al. 2024)."""

from __future__ import annotations

from typing import Any

from softprompts.config.methods import CPTConfig
from softprompts.encoding.documents import EncodedTask
from softprompts.methods.attach import as_peft, attach
from softprompts.methods.context_tuning import check_room

import peft
from peft import PeftModel
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

# Numbers of PEFT's for the kinds of tokens: what stands between input and label, the input, the label.
INPUT, FORMAT, LABEL = 2, 3, 4


def add_cpt(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: EncodedTask, config: CPTConfig
) -> PeftModel:
    separator = tuple(tokenizer(config.separator, add_special_tokens=False).input_ids)
    ids: list[int] = []
    kinds: list[int] = []
    for document in (example.document for example in data.train):
        for tokens, kind in ((document.prompt_ids, INPUT), (document.target_ids, LABEL), (separator, FORMAT)):
            ids += tokens
            kinds += [kind] * len(tokens)
    check_room(base, data, len(ids))
    made: Any = as_peft(
        config,
        peft.CPTConfig,
        task_type="CAUSAL_LM",
        cpt_token_ids=ids,
        cpt_mask=[1] * len(ids),
        cpt_tokens_type_mask=kinds,
    )
    return attach(base, made, section="cpt", seed=None)


def smallest(base: Any, _: Any) -> Any:
    """Put the embeddings of two tokens on a base model: for `preflight`."""
    tokens = {"cpt_token_ids": [0, 0], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [INPUT, LABEL]}
    return attach(base, peft.CPTConfig(task_type="CAUSAL_LM", **tokens), section="cpt", seed=None)
