"""Build the engine: use the packed forward pass if it matches PEFT's own.

The reason for not using it is one line. If the reason is an error, `SOFTPROMPTS_LOG=debug` in the environment of a
recipe prints its traceback. In Python, `logging.getLogger("softprompts.engine.build")` logs it at level DEBUG.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from traceback import walk_tb
from typing import Any

from softprompts.config.sections import ModelConfig
from softprompts.encoding.documents import Document, EncodedTask, Example, lengths_of, longest_document, longest_example
from softprompts.engine.attention import LayoutError, checkpoint_layers, unfollow_layouts
from softprompts.engine.forward import Engine, has_soft_prompt
from softprompts.engine.generation import answers
from softprompts.errors import UserError
from softprompts.methods.preflight import PREFIX_AND_CHECKPOINTS
from softprompts.models.loading import kind_of
from softprompts.models.sharding.tensors import any_sharded, local
from softprompts.models.windows import unknown_layers, window_of
from softprompts.system.memory import is_out_of_memory, one_line_if_memory_is_full

import torch
from peft import PeftType
from torch import distributed
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

# Bounds of the difference of two forward passes, relative to the stock one's loss and gradient. Rounding adds up over
# the layers, about a thousand times faster in 16 bits than in 32.
TOLERANCE = {
    torch.float64: (1e-4, 1e-3),
    torch.float32: (1e-4, 1e-3),
    torch.bfloat16: (2e-2, 1e-1),
    torch.float16: (5e-3, 5e-2),
}
HALF = (torch.bfloat16, torch.float16)
MOST_ROUNDING = 5.0  # times these bounds; a larger difference in 16 bits is none of rounding alone
CHECKED_ROWS, MORE_ROWS = 8, 32
# The check of branching texts: number of soft prompts with two rows each, and number of targets per row.
BRANCHED_PROMPTS, TARGETS = 4, 3
WRITTEN_TOKENS = 8
READ_TOKENS = 8  # that show whether token ids are read like their embeddings


class Off(str):
    """A difference in numbers, which rounding can make. Other differences, such as an error, are plain text."""

    __slots__ = ()


def make_engine(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    config: ModelConfig,
    data: EncodedTask,
    say: Callable[[str], None],
    bank: Sequence[Any] = (),
) -> Engine:
    """Return the engine for `config.engine`, checked on rows of the task.

    Args:
        model: a base model, or a PEFT model over one.
        tokenizer: the model's tokenizer.
        config: the base model's settings.
        data: the tokenized task.
        say: function that reports a line of warning.
        bank: further PEFT models over the same base model.

    Raises:
        UserError: `packed` is set and does not match the stock forward pass; gradient checkpointing of a prefix, or of
            a model that does not support it; a row does not fit into memory; as `check_embeddings` and `check_causal`.
    """
    engine = Engine(model, tokenizer, bank=bank)
    engine.ends = data.ends
    engine.eval()  # PEFT adds modules in training mode, for example dropout; a training step sets that mode itself
    kind = kind_of(engine.base.config)
    tokens = data.train[0].document.prompt_ids
    if any(map(_feeds_embeddings, engine.bank)):
        check_embeddings(engine.base, tokens)
    if kind == "decoder":
        check_causal(engine.base, tokens)
    _checkpoint(engine, config)
    if config.engine == "packed" and kind != "decoder":
        raise UserError(
            f"model.engine: packed is for decoders: an {kind} reads its soft prompt together with each text, so "
            "nothing can be shared; set it to auto or stock"
        )
    if kind != "decoder":
        engine.reads_padding = _reads_padding(engine, data)
    if config.engine == "stock" or kind != "decoder":
        return engine
    difference = unknown_layers(engine.base) or _on_rows(engine, data)
    if data.task.choices is None:
        difference = difference or different_answers(engine, [e.document for e in data.train[:CHECKED_ROWS]])
    if difference and config.engine == "packed":
        raise UserError(f"model.engine: packed does not match PEFT's forward pass for this model: {difference}")
    if difference:
        logger.debug("using stock: %s", difference)
        say(f"warning: model.engine: using stock, because packed does not match PEFT's forward pass: {difference}")
        unfollow_layouts(engine.base)
    engine.packed = difference is None
    return engine


def _checkpoint(engine: Engine, config: ModelConfig) -> None:
    """Let the base model compute its layers again in the backward pass, if it is set."""
    if not config.gradient_checkpointing:
        return
    if any(has_soft_prompt(each) and not _feeds_embeddings(each) for each in engine.bank):
        raise UserError(PREFIX_AND_CHECKPOINTS)
    checkpoint_layers(engine.base)


@torch.no_grad()
def check_embeddings(base: Any, tokens: Sequence[int]) -> None:
    """Refuse embeddings of virtual tokens if the base model reads token ids in another way than their embeddings.

    Together with a soft prompt, the text is also given as embeddings. Pegasus and Falcon-H1 multiply the embeddings of
    token ids, and only these, by a factor. Gemma 3n adds embeddings of every layer. A few tokens show the difference.

    Args:
        base: the base model.
        tokens: token ids of a text, of which a few are read.

    Raises:
        UserError: the two ways differ by more than rounding.
    """
    ids = torch.tensor([tokens[:READ_TOKENS]], device=base.get_input_embeddings().weight.device)
    more = {"attention_mask": torch.ones_like(ids)}
    if kind_of(base.config) == "encoder-decoder":
        more["decoder_input_ids"] = ids
    by_id = base(input_ids=ids, **more).logits.float()
    by_embedding = base(inputs_embeds=base.get_input_embeddings()(ids), **more).logits.float()
    if _differ(by_embedding, by_id, base.dtype):
        raise UserError(
            f"model.name_or_path: a {base.config.model_type} model reads token ids in another way than their "
            "embeddings, so it would misread the text after a soft prompt; use prefix tuning for a decoder, or LoRA"
        )


@torch.no_grad()
def check_causal(base: Any, tokens: Sequence[int]) -> None:
    """Refuse a decoder whose prediction depends on later tokens, as XLNet's: likelihoods of texts would be wrong.

    Args:
        base: the base model.
        tokens: token ids of a text, of which the first is read.

    Raises:
        UserError: the logits after a first token differ with the second one.
    """
    first = tokens[0]
    pairs = torch.tensor([[first, first], [first, 0 if first else 1]], device=base.get_input_embeddings().weight.device)
    same, other = base(input_ids=pairs, attention_mask=torch.ones_like(pairs)).logits[:, 0].float()
    if _differ(other, same, base.dtype):
        raise UserError(
            f"model.name_or_path: a {base.config.model_type} model predicts each token from the later ones as "
            "well, so the likelihood of a text would be wrong; use a model that reads from left to right"
        )


def _differ(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> bool:
    """Return whether logits differ by more than rounding. Those that are not finite are reported elsewhere."""
    bound, _ = TOLERANCE.get(dtype, TOLERANCE[torch.bfloat16])
    return bool((found - expected).abs().max() > bound * expected.abs().max())


def _feeds_embeddings(model: Any) -> bool:
    """Return whether a soft prompt of embeddings precedes the text; a prefix has keys and values instead."""
    if not has_soft_prompt(model):
        return False
    return model.active_peft_config.peft_type not in (PeftType.PREFIX_TUNING, PeftType.CARTRIDGE)


@torch.no_grad()
def _reads_padding(engine: Engine, data: EncodedTask) -> bool:
    """Return whether the output for a row depends on the padding that a longer row in its batch adds.

    FNet's Fourier transform, Nyströmformer's landmarks and ConvBERT's convolutions depend on it, with any attention
    mask. A decoder cannot attend to padding after a text.
    """
    splits = (data.train, data.validation, data.test)
    found = [(n, split, i) for split in splits for i, n in enumerate(lengths_of(split, prompts_only=True))]
    short, long = (
        split[i].document for _, split, i in (choose(found, key=lambda each: each[0]) for choose in (min, max))
    )
    if len(short.prompt_ids) == len(long.prompt_ids):
        return False
    with one_line_if_memory_is_full("in the longest row", "lower task.max_length, or use a smaller base model"):
        alone = engine([short]).logits
        beside = engine([short, long]).logits[: len(alone)]
    if engine.base.dtype not in TOLERANCE:
        return True  # rows of one length are correct in any case
    allowed = 10 * TOLERANCE[engine.base.dtype][0]
    return bool((alone - beside).abs().max() > allowed * alone.abs().max())


def _on_rows(engine: Engine, data: EncodedTask) -> str | None:
    """Return `disagreement` on rows of the task.

    In 16 bits, rounding alone may exceed the bounds. Rows that begin with the same long text, such as few-shot
    examples, have the same rounding, which no mean reduces. So a difference there is decided in 32 bits. If that is not
    possible, more rows decide.
    """
    difference = _difference(engine, data, CHECKED_ROWS)
    if not difference or engine.base.dtype not in HALF or not isinstance(difference, Off):
        return difference
    decided, exact = False, None
    try:
        with in_float32(engine.base):
            decided, exact = True, _difference(engine, data, CHECKED_ROWS)
    except Exception as error:  # the memory is full, weights are quantized, or a kernel knows 16 bits alone
        logger.debug("not decided in 32 bits: %s", error)
    if not decided:  # not in the handler, because the error keeps the tensors alive
        return _difference(engine, data, MORE_ROWS)
    return exact or _difference(engine, data, CHECKED_ROWS, slack=MOST_ROUNDING)


def _difference(engine: Engine, data: EncodedTask, rows: int, slack: float = 1.0) -> str | None:
    found = (_in_parts(engine, documents, slack) for documents in checked_documents(engine, data, rows))
    return next(filter(None, found), None)


@contextmanager
def in_float32(base: torch.nn.Module) -> Iterator[None]:
    """Within this context, weights in 16 bits are copies in 32 bits of the same values.

    Raises:
        ValueError: some weights are quantized, or held in parts by several processes.
        UserError: the memory is full.
    """
    tensors = [*base.parameters(), *base.buffers()]
    if any_sharded(base.parameters()) or getattr(base, "hf_quantizer", None) is not None:
        raise ValueError("weights that are quantized, or in parts")
    kept = [(tensor, tensor.data) for tensor in tensors if tensor.dtype in HALF]
    try:
        with one_line_if_memory_is_full("in a check in 32 bits", "none is needed"):
            for tensor, data in kept:
                tensor.data = data.float()
        yield
    finally:
        for tensor, data in kept:
            tensor.data = data


def checked_documents(engine: Engine, data: EncodedTask, most: int = CHECKED_ROWS) -> list[list[Document]]:
    """Return the batches of the comparison.

    These are the first rows of train, at least one for each soft prompt; rows with several targets each after a common
    beginning; and the longest row after the longest soft prompt, if layers have a shorter window than these together
    and the first rows do not show this.
    """
    count = len(engine.owners)
    train = data.train
    rows = max(count, min(most, len(train)))
    first = [replace(train[i % len(train)].document, soft_prompt=i % count) for i in range(rows)]
    branched = [
        replace(document, soft_prompt=k)
        for k in range(min(count, BRANCHED_PROMPTS))
        for document in _branching([train[(2 * k + i) % len(train)] for i in range(2)], train)
    ]
    length, example = longest_example(data)
    batches = [first, branched]
    reach = min(window_of(engine.base), _original_positions(engine.base))
    virtual = [engine.virtual_tokens(k) for k in range(count)]
    most = max(range(count), key=virtual.__getitem__)  # the positions of a soft prompt count, too
    if virtual[most] + length > reach and max(len(d.input_ids) for d in first) < length:
        batches.append([replace(longest_document(example), soft_prompt=most)])
    return batches


def _original_positions(base: Any) -> float:
    """Return the length above which a model stretches its positions (Phi-3); infinity if it does not."""
    return getattr(base.config.get_text_config(), "original_max_position_embeddings", None) or math.inf


def _branching(rows: Sequence[Example], train: Sequence[Example]) -> list[Document]:
    """Return rows with several targets each, for example choices, whose prompts begin with the same tokens.

    No document is longer than the task's documents, because there may be no room for more.
    """
    prompts = [row.document.prompt_ids for row in rows]
    common = (min(map(len, prompts)) + 1) // 2
    documents = []
    for row, prompt in zip(rows, prompts, strict=True):
        others = row.choices or [e.document for e in train[:TARGETS]]
        targets = dict.fromkeys([row.document.target_ids, *(d.target_ids for d in others)])
        for target in list(targets)[:TARGETS]:
            too_many = max(0, len(prompt) + len(target) - max(_length(d) for d in (row.document, *others)))
            headed = prompts[0][:common] + prompt[common:]
            documents.append(Document(headed[: max(1, len(headed) - too_many)], target))
    return documents


def _length(document: Document) -> int:
    return len(document.prompt_ids) + len(document.target_ids)


def _in_parts(engine: Engine, documents: Sequence[Document], slack: float = 1.0) -> str | None:
    """Return `disagreement`; compare halves of the documents if memory is too small for all of them at once."""
    try:
        return disagreement(engine, documents, slack)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if len(documents) == 1:
            trains = any(p.requires_grad for p in engine.parameters())
            key = "training.micro_batch_tokens" if trains else "evaluation.batch_size"
            raise UserError(
                f"out of memory for a single row of {len(documents[0].input_ids)} tokens, which {key} cannot divide: "
                "lower task.max_length, or set model.gradient_checkpointing or a smaller model.dtype"
            ) from error
    # Not in the handler, because the error keeps the tensors alive.
    half = (len(documents) + 1) // 2
    return _in_parts(engine, documents[:half], slack) or _in_parts(engine, documents[half:], slack)


@dataclass(frozen=True)
class Reference:
    """The result of PEFT's forward pass: the targets' mean loss, and the flat gradient of trained parameters."""

    loss: float
    gradient: torch.Tensor


def disagreement(engine: Engine, documents: Sequence[Document], slack: float = 1.0) -> str | None:
    """Describe a difference of packed and stock in loss or gradient beyond rounding; None if there is none.

    The bounds are multiplied by `slack`. `engine.packed` keeps its value. Only errors in the model's own code count as
    a difference; errors in our code are raised.
    """
    dtype = engine.model.get_input_embeddings().weight.dtype
    if dtype not in TOLERANCE:
        return f"the rounding of {dtype} is unknown"
    before = engine.packed
    try:
        engine.packed = False
        unfollow_layouts(engine.base)
        reference = Reference(*_loss_and_gradient(engine, documents))
        engine.packed = True
        for differs in (_in_training, _in_evaluation):  # the cheaper one first
            difference = differs(engine, documents, reference, *(slack * bound for bound in TOLERANCE[dtype]))
            if difference:
                return difference
    except LayoutError as reason:
        return str(reason)
    except Exception as error:
        return _of_model(error, engine, "it raises")
    finally:
        engine.packed = before
    return None


def _in_training(
    engine: Engine, documents: Sequence[Document], reference: Reference, loss_bound: float, gradient_bound: float
) -> str | None:
    loss, gradient = _loss_and_gradient(engine, documents)
    # Written so that NaN disagrees.
    if not abs(loss - reference.loss) <= loss_bound * max(abs(reference.loss), 1.0):
        return Off(f"the loss is {loss:.6g} instead of {reference.loss:.6g}")
    distance, norm = (_norm(x, engine) for x in (gradient - reference.gradient, reference.gradient))
    return None if distance <= gradient_bound * norm else Off(f"the gradient is off by {distance:.3g} of {norm:.3g}")


def _in_evaluation(
    engine: Engine, documents: Sequence[Document], reference: Reference, loss_bound: float, _: float
) -> str | None:
    """Compare in evaluation, which caches the soft prompts' keys and values; training computes them each time."""
    with torch.no_grad(), engine.prompts_cached():
        loss = engine(documents).nll().mean().item()
    if abs(loss - reference.loss) <= loss_bound * max(abs(reference.loss), 1.0):
        return None
    cached = "with cached keys and values of the soft prompt, "
    return Off(f"{cached}the loss is {loss:.6g} instead of {reference.loss:.6g}")


@torch.no_grad()
def different_answers(engine: Engine, documents: Sequence[Document]) -> str | None:
    """Describe a difference from PEFT in the first eight generated tokens of the shortest and the longest row.

    Two tokens that PEFT's forward pass finds equally likely, up to rounding, are not a difference. `engine.packed`
    keeps its value. Only errors in the model's own code count.
    """
    by_length = sorted(documents, key=lambda d: len(d.prompt_ids))
    rows = [by_length[0], by_length[-1]]
    prompts, numbers = [d.prompt_ids for d in rows], [d.soft_prompt for d in rows]
    before = engine.packed
    try:
        engine.packed = False
        expected = answers(engine, prompts, {"max_new_tokens": WRITTEN_TOKENS}, soft_prompts=numbers)
        engine.packed = True
        found = answers(engine, prompts, {"max_new_tokens": WRITTEN_TOKENS}, soft_prompts=numbers)
        engine.packed = False
        differences = (_written_otherwise(engine, *row) for row in zip(rows, expected, found, strict=True))
        return next(filter(None, differences), None)
    except Exception as error:
        return _of_model(error, engine, "generation raises")
    finally:
        engine.packed = before


def _written_otherwise(engine: Engine, row: Document, expected: list[int], found: list[int]) -> str | None:
    """Name the first different token, if the forward pass finds one of the two tokens likelier."""
    common = next((i for i, pair in enumerate(zip(expected, found, strict=False)) if pair[0] != pair[1]), None)
    if common is None:
        common = min(len(expected), len(found))
        if len(expected) == len(found):
            return None

    def surprise(answer: list[int]) -> tuple[float, float]:
        """Return the nats of the answer's next token, or of its end, and the largest logit there."""
        following = answer[common : common + 1] or list(engine.ends)
        documents = [replace(row, target_ids=(*expected[:common], token)) for token in following]
        scores = engine(documents)
        last = [int((scores.document == i).nonzero()[-1]) for i in range(len(documents))]
        return min(scores.nll()[last].tolist()), scores.logits[last].abs().max().item()

    (theirs, largest), (ours, _) = surprise(expected), surprise(found)
    if equally_likely(theirs, ours, largest, engine.model.get_input_embeddings().weight.dtype):
        return None
    ours_said, theirs_said = (
        f"token {answer[common]}" if common < len(answer) else "the end" for answer in (found, expected)
    )
    return f"after {common} generated tokens, {ours_said} follows instead of {theirs_said}"


def equally_likely(theirs: float, ours: float, largest: float, dtype: torch.dtype) -> bool:
    """Return whether two next tokens, of `theirs` and `ours` nats, are equally likely up to rounding.

    A logit itself is rounded: in bfloat16, logits between 32 and 64 are multiples of 0.25. In each of two forward
    passes, each of the two logits may be one such step too high or too low. `largest` is the largest logit.
    """
    bound, _ = TOLERANCE[dtype]
    steps = 2 * torch.finfo(dtype).eps * largest
    return abs(theirs - ours) <= max(10 * bound * max(1.0, theirs), steps)


# cuDNN has no backward pass of an LSTM in evaluation mode, and this check runs in it, without dropout.
@torch.backends.cudnn.flags(enabled=False)
def _loss_and_gradient(engine: Engine, documents: Sequence[Document]) -> tuple[float, torch.Tensor]:
    trainable = [p for p in engine.parameters() if p.requires_grad]
    with torch.set_grad_enabled(bool(trainable)):
        loss = engine(documents).nll().mean()
    if any_sharded(trainable):
        return loss.item(), _gradient_of_rows(loss, trainable)
    # The training loop reports parameters that the loss does not reach, because it can name them.
    reached = trainable if loss.requires_grad else []
    gradients = torch.autograd.grad(loss, reached, allow_unused=True) if reached else ()
    flat = [p.new_zeros(p.numel()) if g is None else g.flatten() for p, g in zip(reached, gradients, strict=True)]
    return loss.item(), torch.cat([torch.zeros(1), *(g.float().cpu() for g in flat)])


def _gradient_of_rows(loss: torch.Tensor, trainable: Sequence[torch.nn.Parameter]) -> torch.Tensor:
    """Return the gradient of the rows that this process holds, flat: FSDP leaves it at the parameters only."""
    loss.backward()
    rows = [torch.zeros(1) if p.grad is None else local(p.grad).flatten().float().cpu() for p in trainable]
    for parameter in trainable:
        parameter.grad = None
    return torch.cat(rows)


def _norm(gradient: torch.Tensor, engine: Engine) -> float:
    """Return the norm of a flat gradient, the same in all processes, of which each may hold some rows."""
    if not any_sharded(p for p in engine.parameters() if p.requires_grad):
        return gradient.norm().item()
    squares = (gradient.norm() ** 2).to(engine.device)
    distributed.all_reduce(squares)
    return squares.sqrt().item()


def _of_model(error: Exception, engine: Engine, doing: str) -> str:
    """Return an error in the model's own code as a difference; raise other errors, and full memory, again."""
    if is_out_of_memory(error) or not engine.packed or not raised_by_model(error, engine.base):
        raise error
    logger.debug("the packed forward pass fails", exc_info=True)
    return f"{doing} {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def raised_by_model(error: BaseException, base: Any) -> bool:
    """Return whether an error is from the model's own code, and not from our code that it calls."""
    model = {inspect.getfile(c) for c in type(base).__mro__ if c.__module__.split(".")[0] not in ("torch", "builtins")}
    files = [frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)]
    first = next((i for i, file in enumerate(files) if file in model), None)
    return first is not None and not any(Path(__file__).parent in Path(file).parents for file in files[first:])
