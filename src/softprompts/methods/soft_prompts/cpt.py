"""Context-aware prompt tuning, CPT: the embeddings of few-shot examples, changed slightly (Blau et al. 2024)."""

from __future__ import annotations

from typing import Any

from softprompts.config.methods import CPTConfig
from softprompts.encoding.documents import EncodedTask
from softprompts.errors import UserError
from softprompts.methods.attach import as_peft, attach, unknown_token
from softprompts.methods.soft_prompts.context_tuning import check_room

# PEFT's projection needs numbers, which `preflight` lacks. A soft prompt without it is read in the same way.
from softprompts.methods.soft_prompts.prompt_tuning import smallest as smallest

import peft
from peft import PeftModel
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

# PEFT's numbers for kinds of tokens, each with its own bound.
INPUT, FORMAT, LABEL = 2, 3, 4  # a prompt with its template, the separator, a target


def add_cpt(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: EncodedTask, config: CPTConfig
) -> PeftModel:
    """Add trainable changes, float32 (P, hidden size), of the demonstrations' embeddings to a frozen base model.

    The soft prompt has the tokens of each row of train, and of the separator after each row: P in all. An embedding
    changes by at most its bound in the Euclidean norm, times the root of hidden size / 2048; those of targets do not
    change (Blau et al. 2024; bounds and projection are PEFT's). The loss is that of a row's own target. PEFT's own
    training also adds the loss of targets in the soft prompt, which neither engine computes. The final embeddings are
    saved as prompt tuning.

    Args:
        base: the base model, a decoder.
        tokenizer: its tokenizer.
        data: the task, whose train split is the demonstrations.
        config: the settings.

    Raises:
        UserError: the soft prompt and the longest row need more positions than the model has; a token of the separator
            has no embedding; PEFT refuses the config.
    """
    separator = tuple(tokenizer(config.separator, add_special_tokens=False).input_ids)
    ids: list[int] = []
    kinds: list[int] = []
    for document in (example.document for example in data.train):
        for tokens, kind in ((document.prompt_ids, INPUT), (document.target_ids, LABEL), (separator, FORMAT)):
            ids += tokens
            kinds += [kind] * len(tokens)
    check_room(base, data, len(ids), "cpt")
    if unknown := unknown_token(base, ids):
        raise UserError(f"cpt.separator: {unknown}")
    made: Any = as_peft(
        config,
        peft.CPTConfig,
        task_type="CAUSAL_LM",
        cpt_token_ids=ids,
        cpt_mask=[1] * len(ids),
        cpt_tokens_type_mask=kinds,
    )
    return attach(base, made, section="cpt", seed=None)
