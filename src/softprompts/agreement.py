"""Take the packed forward pass where it gives what PEFT's own gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from softprompts.attention import checkpoint_layers
from softprompts.batching import Document
from softprompts.config import ModelConfig
from softprompts.encoding import EncodedTask
from softprompts.engine import Engine, Scores
from softprompts.errors import UserError
from softprompts.models import kind_of
from softprompts.preflight import PREFIX_AND_CHECKPOINTS

import torch
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

# How far two forward passes may differ, relative to the stock one's loss and gradient: rounding adds up over the
# layers, in 16 bits about a thousand times faster than in 32.
TOLERANCE = {torch.float32: (1e-4, 1e-3), torch.bfloat16: (2e-2, 1e-1), torch.float16: (5e-3, 5e-2)}
CHECKED_DOCUMENTS = 8


def make_engine(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    config: ModelConfig,
    data: EncodedTask,
    say: Callable[[str], None],
    bank: Sequence[Any] = (),
) -> Engine:
    """Return the engine that `config.engine` asks for, checked on the first documents of train.

    Raises:
        UserError: `packed` is asked for and disagrees with the stock forward; gradient checkpointing of a prefix.
    """
    engine = Engine(model, tokenizer, bank=bank)
    engine.ends = data.ends
    engine.eval()  # PEFT's new modules, a dropout say, come in training mode; an update puts them there by itself
    if config.gradient_checkpointing:
        if any(isinstance(engine.soft_prompt(index), list) for index in range(len(engine.owners))):
            raise UserError(PREFIX_AND_CHECKPOINTS)
        checkpoint_layers(engine.base)
    kind = kind_of(engine.base.config)
    if config.engine == "packed" and kind != "decoder":
        raise UserError(
            f"model.engine: packed is for decoders: an {kind} reads its soft prompt together with each text, so that "
            "nothing can be shared; take auto or stock"
        )
    if config.engine == "stock" or kind != "decoder":
        return engine
    documents = [replace(e.document, soft_prompt=i % len(engine.owners)) for i, e in enumerate(data.train)]
    difference = disagreement(engine, documents[: max(CHECKED_DOCUMENTS, len(engine.owners))])
    if difference and config.engine == "packed":
        raise UserError(f"model.engine: packed does not give what PEFT gives with this model: {difference}")
    if difference:
        say(f"warning: model.engine: taking stock, because packed does not give what PEFT gives: {difference}")
    engine.packed = difference is None
    return engine


def disagreement(engine: Engine, documents: Sequence[Document]) -> str | None:
    """Say where packed and stock forward differ by more than rounding in loss or gradient; None where nowhere."""
    trainable = [p for p in engine.parameters() if p.requires_grad]

    def loss_and_gradient(packed: bool) -> tuple[float, torch.Tensor]:
        engine.packed = packed
        with torch.set_grad_enabled(bool(trainable)):
            loss = Scores(*engine(documents)).nll().mean()
        # A parameter that the loss does not reach is the training loop's to report: it can name it.
        reached = trainable if loss.requires_grad else []
        gradients = torch.autograd.grad(loss, reached, allow_unused=True) if reached else ()
        return loss.item(), torch.cat(
            [torch.zeros(1), *(g.flatten().float().cpu() for g in gradients if g is not None)]
        )

    loss, gradient = loss_and_gradient(packed=False)
    try:
        packed_loss, packed_gradient = loss_and_gradient(packed=True)
    except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError) as error:
        return f"it raises {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    loss_bound, gradient_bound = TOLERANCE[engine.model.get_input_embeddings().weight.dtype]
    # Written so that NaN disagrees.
    if not abs(packed_loss - loss) <= loss_bound * max(abs(loss), 1.0):
        return f"the loss is {packed_loss:.6g} instead of {loss:.6g}"
    distance = (packed_gradient - gradient).norm().item()
    if not distance <= gradient_bound * gradient.norm().item():
        return f"the gradient is off by {distance:.3g} of {gradient.norm().item():.3g}"
    return None
