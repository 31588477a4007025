"""PEFT's own forward pass for encoder-decoders and encoders equals plain calls with one document each."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from helpers import CPU, load_base, make_task, prompt_config
from softprompts.config.methods import PrefixConfig
from softprompts.config.sections import ModelConfig
from softprompts.encoding.documents import Document, EncodedTask
from softprompts.encoding.tokenization import encode
from softprompts.engine.build import make_engine
from softprompts.engine.forward import Engine
from softprompts.engine.generation import generate
from softprompts.engine.padded import stock_forward
from softprompts.errors import UserError
from softprompts.methods.soft_prompts.prefix_tuning import add_prefix
from softprompts.methods.soft_prompts.prompt_tuning import add_soft_prompt
from softprompts.models.loading import InputSpec, load_base_model

import pytest
import torch
import transformers
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

CHOICES = ("yes", "no", "both")
VIRTUAL = 30  # enough to change the answers of a random model
# Of different lengths, so that a batch is padded on both sides; the encoder's targets are numbers of choices.
TEXTS = [Document((5, 6), (7,)), Document(tuple(range(20, 33)), (40, 41, 42)), Document(tuple(range(50, 70)), (9, 8))]
LABELLED = [Document(d.prompt_ids, (number,)) for number, d in enumerate(TEXTS)]

Loaded = tuple[Any, PreTrainedTokenizerBase]


@pytest.fixture(scope="module")
def t5(tiny_t5: Path) -> Loaded:
    return load_base(tiny_t5)


@pytest.fixture(scope="module")
def tuned_t5(tiny_t5: Path) -> Loaded:
    """A T5 with a soft prompt whose output depends on its input; a random T5 repeats its last token."""
    base, tokenizer = load_base(tiny_t5)
    for name, parameter in base.named_parameters():
        if "EncDecAttention.o" in name or "EncDecAttention.v" in name:
            parameter.mul_(10)
    return add_soft_prompt(base, tokenizer, prompt_config(tiny_t5, VIRTUAL), seed=0), tokenizer


def load_encoder(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    torch.manual_seed(0)  # the classifier is new
    return load_base_model(ModelConfig(str(folder)), CPU, CHOICES)


@pytest.fixture(scope="module")
def encoder(tiny_encoder: Path) -> Loaded:
    return load_encoder(tiny_encoder)


@pytest.fixture(scope="module")
def prefixed(tiny_encoder: Path) -> Loaded:
    """An encoder with a prefix whose values are as large as its own layers' values."""
    base, tokenizer = load_encoder(tiny_encoder)
    model = add_prefix(base, tokenizer, PrefixConfig(num_virtual_tokens=4), seed=0)
    return model.eval(), tokenizer


def of_document(parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor], index: int) -> tuple[torch.Tensor, list[int]]:
    """Return the logits and the targets of one document."""
    logits, targets, document = parts
    return logits[document == index], targets[document == index].tolist()


def assert_each(model: Any, documents: Sequence[Document], expected: Sequence[torch.Tensor]) -> None:
    """Compare the logits of each document, alone, together, and in another order, with those expected of it."""
    orders = [[i] for i in range(len(documents))] + [[0, 1, 2], [2, 0, 1]]
    with torch.no_grad():
        for order in orders:
            parts = stock_forward(model, [documents[i] for i in order], CPU)
            for place, i in enumerate(order):
                logits, targets = of_document(parts, place)
                assert tuple(targets) == documents[i].target_ids
                torch.testing.assert_close(logits, expected[i], rtol=1e-4, atol=1e-4)


def written(model: Any, start: int, document: Document) -> torch.Tensor:
    """Return the logits of a plain call on one document: no padding, no mask, the vocabulary at every position."""
    decoder = torch.tensor([(start, *document.target_ids[:-1])])
    return model(input_ids=torch.tensor([document.prompt_ids]), decoder_input_ids=decoder).logits[0]


def test_an_encoder_decoder_gives_what_a_plain_call_gives(t5: Loaded) -> None:
    model, _ = t5
    with torch.no_grad():
        expected = [written(model, model.config.decoder_start_token_id, d) for d in TEXTS]
    assert_each(model, TEXTS, expected)


def test_an_encoder_decoder_behind_a_soft_prompt_gives_what_a_call_with_embeddings_gives(tuned_t5: Loaded) -> None:
    model, _ = tuned_t5
    base = model.get_base_model()
    prompt = next(model.prompt_encoder.parameters())
    expected = []
    with torch.no_grad():
        for d in TEXTS:
            embeds = torch.cat([prompt, base.get_input_embeddings()(torch.tensor(d.prompt_ids))])[None]
            decoder = torch.tensor([(base.config.decoder_start_token_id, *d.target_ids[:-1])])
            expected.append(base(inputs_embeds=embeds, decoder_input_ids=decoder).logits[0])
            assert (expected[-1] - written(base, base.config.decoder_start_token_id, d)).abs().max() > 0.01
    assert_each(model, TEXTS, expected)


def test_a_soft_prompt_of_an_encoder_decoder_has_one_half_and_all_of_it_receives_a_gradient(tuned_t5: Loaded) -> None:
    model, tokenizer = tuned_t5
    (prompt,) = [p for p in model.parameters() if p.requires_grad]
    assert prompt.shape == (VIRTUAL, 32), "PEFT's default has a second half, for the decoder, which nothing reads"
    loss = Engine(model, tokenizer)(TEXTS).nll().mean()
    (gradient,) = torch.autograd.grad(loss, [prompt])
    assert gradient.abs().sum(1).min() > 0


def test_an_encoder_gives_what_a_plain_call_gives(encoder: Loaded) -> None:
    model, _ = encoder
    with torch.no_grad():
        expected = [model(input_ids=torch.tensor([d.prompt_ids])).logits for d in LABELLED]
    assert expected[0].shape == (1, len(CHOICES))
    assert_each(model, LABELLED, expected)


def test_the_loss_of_an_encoder_is_that_of_its_own_head(encoder: Loaded) -> None:
    model, tokenizer = encoder
    losses = Engine(model, tokenizer)(LABELLED).nll()
    for loss, d in zip(losses, LABELLED, strict=True):
        theirs = model(input_ids=torch.tensor([d.prompt_ids]), labels=torch.tensor(d.target_ids)).loss
        torch.testing.assert_close(loss, theirs, rtol=1e-4, atol=1e-4)


def test_a_prefix_of_an_encoder_does_not_depend_on_padding_and_changes_the_logits(prefixed: Loaded) -> None:
    model, _ = prefixed
    with torch.no_grad():
        expected = [model(input_ids=torch.tensor([d.prompt_ids])).logits for d in LABELLED]
        base = model.get_base_model()  # its classifier is the same, so that only the prefix makes a difference
        without = [base(input_ids=torch.tensor([d.prompt_ids])).logits for d in LABELLED]
    for mine, plain in zip(expected, without, strict=True):
        assert (mine - plain).abs().max() > 1e-3
    assert_each(model, LABELLED, expected)


def test_a_prefix_of_an_encoder_receives_a_gradient_in_every_layer(prefixed: Loaded) -> None:
    # With use_cache=False BERT ignored a prefix without a warning, so training would have no effect.
    model, tokenizer = prefixed
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    loss = Engine(model, tokenizer)(LABELLED).nll().mean()
    gradients = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
    (prefix,) = (gradient for name, gradient in gradients.items() if "prompt_encoder" in name)
    layers = prefix.reshape(4, model.config.num_hidden_layers, 2, -1)  # tokens, layers, keys and values, width
    assert layers.abs().amax(-1).min() > 0
    assert any("classifier" in name for name in gradients), "its classifier trains with it"


def greedy(model: Any, base: Any, end: int, prompt_ids: tuple[int, ...]) -> list[int]:
    """Return a model's answer, computed from the beginning for every token."""
    ids: list[int] = []
    while len(ids) < 6 and (not ids or ids[-1] != end):
        read = written(model, base.config.decoder_start_token_id, Document(prompt_ids, (*ids, 0)))
        ids.append(int(read[-1].argmax()))
    return ids


@pytest.mark.parametrize("disabled", [False, True])
def test_an_encoder_decoder_writes_what_it_writes_alone(tuned_t5: Loaded, disabled: bool) -> None:
    model, tokenizer = tuned_t5
    base, engine = model.get_base_model(), Engine(model, tokenizer)
    prompts = [d.prompt_ids for d in TEXTS]
    with torch.no_grad():
        ids = [[greedy(m, base, tokenizer.eos_token_id, p) for p in prompts] for m in (model, base)]
    assert ids[0] != ids[1], "the soft prompt makes a difference"
    expected = [tokenizer.decode(row, skip_special_tokens=True) for row in ids[disabled]]
    with model.disable_adapter() if disabled else nullcontext():
        assert [generate(engine, [p], 6)[0] for p in prompts] == expected
        assert generate(engine, prompts, 6) == expected
    base_engine = Engine(base, tokenizer)
    assert generate(base_engine, prompts, 6) == [tokenizer.decode(row, skip_special_tokens=True) for row in ids[1]]


def test_an_encoder_decoder_writes_behind_the_soft_prompt_that_is_asked_for(tuned_t5: Loaded, tiny_t5: Path) -> None:
    model, tokenizer = tuned_t5
    other = add_soft_prompt(model.get_base_model(), tokenizer, prompt_config(tiny_t5, 9), seed=1)
    prompts = [d.prompt_ids for d in (*TEXTS, TEXTS[1])]
    owners = [1, 0, 1, 1]
    alone = [Engine(m, tokenizer) for m in (model, other)]
    expected = [generate(alone[k], [p], 5)[0] for k, p in zip(owners, prompts, strict=True)]
    assert generate(Engine(model, tokenizer, bank=[other]), prompts, 5, soft_prompts=owners) == expected


def made(loaded: Loaded, kind: Any) -> EncodedTask:
    task = make_task([("the film", CHOICES[0]), ("the plot was dull", CHOICES[1])], choices=CHOICES)
    return encode(task, loaded[1], InputSpec(kind))


@pytest.mark.parametrize("kind", ["encoder", "encoder-decoder"])
def test_packed_is_for_decoders(request: pytest.FixtureRequest, kind: Any) -> None:
    model, tokenizer = loaded = request.getfixturevalue("prefixed" if kind == "encoder" else "tuned_t5")
    data = made(loaded, kind)
    said: list[str] = []
    with pytest.raises(
        UserError, match=rf"^model\.engine: packed is for decoders: an {kind} .*; set it to auto or stock$"
    ):
        make_engine(model, tokenizer, config=ModelConfig(engine="packed"), data=data, say=said.append)
    for engine in ("auto", "stock"):
        assert not make_engine(model, tokenizer, config=ModelConfig(engine=engine), data=data, say=said.append).packed  # type: ignore[arg-type]
    assert said == [], "nothing to warn of"


def test_an_encoder_decoder_without_a_first_token_is_one_line(
    tuned_t5: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = tuned_t5
    stock_forward(model, [Document((5, 6), (7,))], CPU)
    for config in (model.config, model.generation_config):
        monkeypatch.setattr(config, "decoder_start_token_id", None)
    with pytest.raises(UserError, match=r"^model\.name_or_path: .* has no decoder_start_token_id"):
        stock_forward(model, [Document((5, 6), (7,))], CPU)


KINDS = {
    "fnet": ("FNetConfig", {"intermediate_size": 64, "pad_token_id": 2}, True),
    "convbert": ("ConvBertConfig", {"intermediate_size": 64, "embedding_size": 32}, True),
    "electra": ("ElectraConfig", {"intermediate_size": 64, "embedding_size": 32}, False),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_row_is_answered_as_it_is_alone_even_by_models_that_read_padding(
    name: str, tiny_model: Path, tmp_path: Path
) -> None:
    config_class, more, reads = KINDS[name]
    tokenizer = load_base(tiny_model)[1]
    tokenizer.save_pretrained(tmp_path)
    common = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.5}
    labels = {"id2label": dict(enumerate(CHOICES)), "label2id": {c: i for i, c in enumerate(CHOICES)}}
    config = getattr(transformers, config_class)(
        vocab_size=len(tokenizer), max_position_embeddings=64, **(common | labels | more)
    )
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    base, tokenizer = load_base_model(ModelConfig(str(tmp_path)), CPU, CHOICES)
    rows = [("the film was good and the plot was fine", "yes"), ("a film", "no"), ("the plot was dull", "both")]
    data = encode(make_task(rows, CHOICES), tokenizer, InputSpec("encoder"))
    engine = make_engine(base, tokenizer, config=ModelConfig(), data=data, say=print)
    assert engine.reads_padding is reads
    documents = [example.document for example in data.train]
    with torch.no_grad():
        together = engine(documents)
        alone = [engine([document])[0][0] for document in documents]
    assert together.document.tolist() == [0, 1, 2]
    torch.testing.assert_close(together.logits, torch.stack(alone), atol=1e-4, rtol=1e-4)
