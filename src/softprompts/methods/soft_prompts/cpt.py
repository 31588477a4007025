"""Context-aware prompt tuning, CPT: the embeddings of a few solved rows, moved by little (Blau et al. 2024)."""

from __future__ import annotations

from typing import Any

from softprompts.config.methods import CPTConfig
from softprompts.encoding.documents import EncodedTask
from softprompts.methods.attach import as_peft, attach
from softprompts.methods.soft_prompts.context_tuning import check_room

# PEFT's projection needs numbers, which `preflight` has none of: a soft prompt without it is read in the same way.
from softprompts.methods.soft_prompts.prompt_tuning import smallest as smallest

import peft
from peft import PeftModel
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

# Numbers of PEFT's for kinds of tokens, which have bounds of their own.
INPUT, FORMAT, LABEL = 2, 3, 4  # a prompt with its template, the separator, a target


def add_cpt(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: EncodedTask, config: CPTConfig
) -> PeftModel:
    """Put trainable changes, float32 (P, hidden size), of the demonstrations' embeddings on a frozen base model.

    The soft prompt has the tokens of each row of train, and those of the separator after each: P in all. An embedding
    moves by no more than its bound in the Euclidean norm, times the root of hidden size / 2048; those of targets do not
    move (Blau et al. 2024; bounds and projection are PEFT's). The loss is that of a row's own target: PEFT's also has
    that of the targets in the soft prompt, which `model.engine: packed` does not compute. What is saved are the
    embeddings as they are in the end, as prompt tuning.

    Args:
        base: the base model, a decoder.
        tokenizer: its tokenizer.
        data: the task, whose train split is the demonstrations.
        config: the settings.

    Raises:
        UserError: more tokens than the model has positions for, together with the longest row; what PEFT refuses.
    """
    separator = tuple(tokenizer(config.separator, add_special_tokens=False).input_ids)
    ids: list[int] = []
    kinds: list[int] = []
    for document in (example.document for example in data.train):
        for tokens, kind in ((document.prompt_ids, INPUT), (document.target_ids, LABEL), (separator, FORMAT)):
            ids += tokens
            kinds += [kind] * len(tokens)
    check_room(base, data, len(ids), "cpt")
    made: Any = as_peft(
        config,
        peft.CPTConfig,
        task_type="CAUSAL_LM",
        cpt_token_ids=ids,
        cpt_mask=[1] * len(ids),
        cpt_tokens_type_mask=kinds,
    )
    return attach(base, made, section="cpt", seed=None)
