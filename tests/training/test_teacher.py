"""Distillation: the loss by hand, the teacher's distribution, unchanged weights, and refusals in one line."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers import Build, Parts, cli_in_process, load_base, losses, run_training
from method_runs import saved_by_peft, short_command
from softprompts.adapters.loading import load_adapter
from softprompts.config.methods import PrefixConfig
from softprompts.config.sections import TrainingConfig
from softprompts.config.tools import AdapterConfig
from softprompts.encoding.documents import Document
from softprompts.encoding.tokenization import encode
from softprompts.engine import build as build_module
from softprompts.engine.forward import Engine
from softprompts.engine.padded import Scores
from softprompts.errors import Interrupted, UserError
from softprompts.evaluation.hard_prompts import draw_shots
from softprompts.methods.baselines.full_finetuning import train_everything
from softprompts.methods.soft_prompts.prefix_tuning import add_prefix
from softprompts.tasks.task import with_prompt
from softprompts.training import loop as training_module
from softprompts.training.checks import check_training
from softprompts.training.loop import train
from softprompts.training.state import batch_order
from softprompts.training.teacher import _with_head, distillation, load_teacher

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, MultitaskPromptTuningConfig, PrefixTuningConfig, PromptTuningConfig
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM

CONTEXT = "the film was very good and\nthe cast {was} lovely"
ONE_STEP: dict[str, Any] = {"steps": 1, "eval_every": 1}
KINDS = {
    "prompt": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "lora": LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], init_lora_weights=False),
}


@pytest.fixture(scope="module")
def teachers(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of adapters of PEFT's, and of a whole model with other weights."""
    folder = tmp_path_factory.mktemp("teachers")
    for name, config in KINDS.items():
        saved_by_peft(tiny_model, copy.deepcopy(config), folder / name)
    shutil.copytree(tiny_model, folder / "whole")
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    model.save_pretrained(folder / "whole")
    return {name: folder / name for name in (*KINDS, "whole")}


def test_a_teacher_has_no_say_in_ends_and_in_rows_that_it_reads(
    make: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    """A base model does not end answers, and it copies the target of a row that is among its examples."""
    parts = make(teacher_context="shots:2", teacher_weight=0.7, **ONE_STEP)
    task = replace(parts.data.task, choices=None, metrics=("exact_match",))
    open_task = encode(task, parts.engine.tokenizer)
    teacher = load_teacher(parts.engine, open_task, parts.training, seed=0, say=print)
    assert teacher
    drawn = {row.place for row in draw_shots(task, 2, 0)}
    assert {open_task.train[n].row.place for n in teacher.shown} == drawn
    rows = [*sorted(teacher.shown), *(n for n in range(4) if n not in teacher.shown)]
    lessons = teacher.lessons([open_task.train[n].document for n in rows], rows)
    scores = parts.engine(lessons)
    expected = [
        0.0 if n in teacher.shown or place == len(d.target_ids) - 1 else 0.7
        for n, d in zip(rows, lessons, strict=True)
        for place in range(len(d.target_ids))
    ]
    assert lessons[0].target_ids[-1] in open_task.ends
    assert teacher.weights(scores, lessons).tolist() == pytest.approx(expected)
    run_training(replace(parts, data=open_task))
    said = f"2 of {len(open_task.train)} rows of train are its examples; they are trained on their targets alone"
    assert said in capsys.readouterr().out


def test_a_row_that_repeats_an_example_of_the_context_counts_as_the_example(make: Build) -> None:
    parts = make(teacher_context="shots:2", **ONE_STEP)
    task = parts.data.task
    rows = list(task.splits["train"])
    drawn = draw_shots(task, 2, 0)
    again = replace(drawn[0], place="elsewhere")
    other = next(n for n, row in enumerate(rows) if row.place not in {d.place for d in drawn})
    kept = [again if n == other else row for n, row in enumerate(rows)]
    data = encode(replace(task, splits={**task.splits, "train": kept}), parts.engine.tokenizer)
    teacher = load_teacher(parts.engine, data, parts.training, seed=0, say=print)
    assert teacher
    assert draw_shots(data.task, 2, 0) == drawn
    assert other in teacher.shown


@pytest.mark.falls_back
@pytest.mark.parametrize("key", ["teacher", "teacher_context"])
def test_a_teacher_whose_packed_forward_pass_differs_uses_stock(
    make: Build, teachers: dict[str, Path], monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    parts = make(**{key: str(teachers["whole"]) if key == "teacher" else "shots:2"}, **ONE_STEP)
    assert parts.engine.packed
    monkeypatch.setattr(build_module, "unknown_layers", lambda _: "it is odd")
    said: list[str] = []
    teacher = load_teacher(parts.engine, parts.data, parts.training, seed=0, say=said.append)
    assert teacher
    assert not teacher.engine.packed
    expected = f"warning: training.{key}: the teacher uses stock, because packed does not match PEFT's forward pass: "
    assert said == [f"{expected}it is odd"]


def test_the_loss_of_hand_computed_tokens_in_float64() -> None:
    """Two tokens over a vocabulary of three; logarithms of probabilities are the logits."""
    student = [[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]
    teacher = [[0.25, 0.25, 0.5], [0.1, 0.2, 0.7]]
    scores = Scores(torch.tensor(student, dtype=torch.float64).log(), torch.tensor([0, 2]), torch.tensor([0, 0]))
    said = torch.tensor(teacher, dtype=torch.float64).log()
    nll = [math.log(2), -math.log(0.7)]
    divergence = [0.25 * math.log(0.5) + 0.5 * math.log(2), 0.0]
    for weight in (0.0, 0.3, 1.0):
        expected = [(1 - weight) * a + weight * b for a, b in zip(nll, divergence, strict=True)]
        found = distillation(scores, said, weight, 1.0)
        assert found.dtype == torch.float64
        assert found.tolist() == pytest.approx(expected, rel=1e-14, abs=1e-16)
    # At temperature 2 probabilities are square roots, normed: s and t of the first token.
    roots = [[math.sqrt(p) for p in row] for row in (student[0], teacher[0])]
    s, t = ([p / sum(row) for p in row] for row in roots)
    warm = 4 * sum(b * math.log(b / a) for a, b in zip(s, t, strict=True))
    assert distillation(scores, said, 1.0, 2.0).tolist() == pytest.approx([warm, 0.0], rel=1e-13, abs=1e-15)


def test_the_gradient_is_the_difference_of_the_distributions() -> None:
    """Hinton et al. (2015), section 2: of the logits it is q - p at temperature 1, and T (q - p) for T^2 KL."""
    torch.manual_seed(0)
    logits, said = torch.randn(4, 7, dtype=torch.float64, requires_grad=True), torch.randn(4, 7, dtype=torch.float64)
    scores = Scores(logits, torch.zeros(4, dtype=torch.long), torch.zeros(4, dtype=torch.long))
    distillation(scores, said, 1.0, 3.0).sum().backward()
    assert logits.grad is not None
    expected = 3 * ((logits / 3).softmax(-1) - (said / 3).softmax(-1))
    torch.testing.assert_close(logits.grad, expected.detach(), rtol=1e-12, atol=1e-14)


def by_hand(
    parts: Parts,
    taught: Callable[[list[int]], list[tuple[Any, tuple[int, ...]]]],
    given: float,
    shown: Collection[str] = (),
) -> float:
    """Return the loss of the first update, a row at a time.

    `taught` gives a teacher and its prompt for each row. Rows at the places `shown` are trained without a teacher.
    """
    numbers = next(batch_order(len(parts.data.train), 8, parts.run.seed))
    rows = [parts.data.train[n].document for n in numbers]
    total, tokens = 0.0, 0
    for n, row, (model, prompt_ids) in zip(numbers, rows, taught(numbers), strict=True):
        weight = 0.0 if parts.data.train[n].row.place in shown else given
        with torch.no_grad():
            student = parts.engine([row])
            ids = torch.tensor([prompt_ids + row.target_ids[:-1]])
            said = model(input_ids=ids).logits[0, -len(row.target_ids) :]
        p, q = said.double().softmax(-1), student.logits.double().softmax(-1)
        divergence = (p * (p.log() - q.log())).sum()
        total += float((1 - weight) * student.nll().sum() + weight * divergence)
        tokens += len(row.target_ids)
    return total / tokens


@pytest.mark.parametrize("name", ["prompt", "prefix", "lora", "whole"])
@pytest.mark.parametrize("mode", ["packed", "stock"])
def test_a_teacher_in_a_folder_is_what_stock_peft_loads(
    make: Build, teachers: dict[str, Path], tiny_model: Path, name: str, mode: str
) -> None:
    parts = make(mode=mode, teacher=str(teachers[name]), teacher_weight=0.7, **ONE_STEP)
    before = {n: t.clone() for n, t in parts.engine.base.state_dict().items()}
    if name == "whole":
        model: Any = AutoModelForCausalLM.from_pretrained(teachers[name])
    else:
        model = load_adapter(load_base(tiny_model)[0], AdapterConfig(str(teachers[name])))
    documents = [e.document for e in parts.data.train]
    expected = by_hand(parts, lambda numbers: [(model, documents[n].prompt_ids) for n in numbers], 0.7)
    assert losses(run_training(parts).history) == pytest.approx([expected], rel=1e-4)
    after = parts.engine.base.state_dict()
    assert before.keys() == after.keys(), "the teacher leaves the student's base model as it is"
    assert all(torch.equal(before[n], after[n]) for n in before)


@pytest.mark.parametrize("mode", ["packed", "stock"])
@pytest.mark.parametrize("shots", [0, 2])
def test_the_base_model_teaches_what_it_says_in_context(make: Build, tiny_model: Path, mode: str, shots: int) -> None:
    context = f"shots:{shots}" if shots else CONTEXT
    parts = make(mode=mode, teacher_context=context, teacher_weight=1.0, **ONE_STEP)
    base, tokenizer = load_base(tiny_model)
    drawn = []
    if shots:
        drawn = draw_shots(parts.data.task, shots, parts.run.seed)
        task = with_prompt(parts.data.task, parts.data.task.config.prompt, drawn, "\n\n")
    else:
        escaped = CONTEXT.replace("{", "{{").replace("}", "}}")
        task = with_prompt(parts.data.task, escaped + "\n\n" + parts.data.task.config.prompt)
    read = [e.document for e in encode(task, tokenizer).train]
    assert all(len(a.prompt_ids) > len(b.document.prompt_ids) for a, b in zip(read, parts.data.train, strict=True))
    shown = {row.place for row in drawn}
    expected = by_hand(parts, lambda numbers: [(base, read[n].prompt_ids) for n in numbers], 1.0, shown)
    assert losses(run_training(parts).history) == pytest.approx([expected], rel=1e-4)


def test_what_all_rows_begin_with_is_read_once(make: Build, tiny_model: Path, teachers: dict[str, Path]) -> None:
    def load(name: str, **settings: Any) -> Any:
        parts = make(name, teacher_context=CONTEXT, **settings)
        return parts, load_teacher(parts.engine, parts.data, parts.training, seed=0, say=pytest.fail)

    parts, teacher = load("packed")
    base, tokenizer = load_base(tiny_model)
    assert teacher.head >= len(tokenizer(CONTEXT).input_ids)
    assert teacher.engine.virtual_tokens(0) == teacher.head
    rows = [3, 0, 17]
    lessons = teacher.lessons([parts.data.train[n].document for n in rows], rows)
    whole = [Document(teacher.train[n].document.prompt_ids, d.target_ids) for n, d in zip(rows, lessons, strict=True)]
    with torch.no_grad():
        expected = Engine(base, tokenizer)(whole).logits
    torch.testing.assert_close(teacher.logits(lessons), expected, rtol=1e-4, atol=1e-4)
    assert not any(p.requires_grad for p in teacher.engine.parameters())
    # Cases without cached keys and values: PEFT's own forward pass, and a teacher with its own prompt first.
    assert load("stock", mode="stock")[1].head == 0
    assert load("adapter", teacher=str(teachers["prompt"]))[1].head == 0
    assert load("whole", teacher=str(teachers["whole"]))[1].head == teacher.head


def test_layers_that_keep_too_few_positions_read_it_each_time(make: Build, tiny_model: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    vocabulary = len(load_base(tiny_model)[1])
    base = MistralForCausalLM(MistralConfig(vocab_size=vocabulary, num_hidden_layers=2, sliding_window=8, **sizes))
    rows = [replace(e, document=Document((*range(12), n), (7,))) for n, e in enumerate(make().data.train[:2])]
    assert _with_head(base, rows) == (base, 0)


def test_a_context_may_be_a_file(make: Build, tmp_path: Path) -> None:
    file = tmp_path / "context.txt"
    file.write_text(CONTEXT + "\n", encoding="utf-8")
    named, written = (
        run_training(make(f"run{n}", teacher_context=text, **ONE_STEP)) for n, text in enumerate([str(file), CONTEXT])
    )
    assert losses(named.history) == losses(written.history)


def test_micro_batches_change_nothing(make: Build) -> None:
    settings: dict[str, Any] = {"teacher_context": "shots:2", "steps": 2, "eval_every": 2}
    curves = [losses(run_training(make(str(n), micro_batch_tokens=n, **settings)).history) for n in (40, None)]
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


def test_at_weight_0_nothing_changes_and_nothing_is_loaded(make: Build) -> None:
    taught = run_training(make("taught", teacher="nowhere", teacher_context=CONTEXT, teacher_weight=0.0))
    assert taught.history == run_training(make("plain")).history


def test_a_prefix_learns_what_a_longer_text_makes_the_model_say(make: Build) -> None:
    """Context distillation: fewer virtual tokens than the text has; only the teacher's distribution is learnt."""
    parts = make(steps=40, eval_every=40, learning_rate=0.1, teacher_context=CONTEXT * 3, teacher_weight=1.0)
    base = parts.engine.base
    model = add_prefix(base, parts.engine.tokenizer, PrefixConfig(num_virtual_tokens=4), seed=0)
    engine = Engine(model, parts.engine.tokenizer, packed=True)
    teacher = load_teacher(engine, parts.data, parts.training, seed=0, say=print)
    assert teacher
    assert teacher.engine.base is base, "nothing is loaded twice"
    lesson = len(teacher.train[0].document.prompt_ids) - len(parts.data.train[0].document.prompt_ids)
    assert lesson > 4 * 4
    curve = losses(train(engine, parts.data, parts.training, parts.evaluation, parts.run).history)
    assert min(curve) >= 0
    assert sum(curve[-4:]) < 0.4 * sum(curve[:4])


def test_a_student_that_moves_the_base_model_has_a_teacher_that_stays(make: Build) -> None:
    parts = make(teacher_context=CONTEXT, learning_rate=0.01)
    engine = Engine(train_everything(parts.engine.base), parts.engine.tokenizer, packed=True)
    teacher = load_teacher(engine, parts.data, parts.training, seed=0, say=print)
    assert teacher
    assert not any(p.requires_grad for p in teacher.engine.parameters())
    rows = teacher.lessons([parts.data.train[0].document], [0])
    before = teacher.logits(rows)
    weight = engine.base.get_input_embeddings().weight
    start = weight.detach().clone()
    train(engine, parts.data, parts.training, parts.evaluation, parts.run)
    assert not torch.equal(weight, start)
    assert torch.equal(teacher.logits(rows), before)


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a signal come at this update."""
    update, calls = training_module.update, []

    def stopping(*arguments: Any) -> list[float]:
        calls.append(0)
        if len(calls) == step:
            training_module.signal.raise_signal(training_module.signal.SIGTERM)
        return update(*arguments)

    monkeypatch.setattr(training_module, "update", stopping)


def test_a_stopped_run_goes_on_bit_for_bit_and_with_the_same_teacher_only(
    make: Build, teachers: dict[str, Path], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "teacher"
    shutil.copytree(teachers["prompt"], folder)
    settings = {"teacher": str(folder), "teacher_context": "shots:1"}
    whole = make("whole", **settings)
    expected = run_training(whole)
    with monkeypatch.context() as patch:
        stop_at(3, patch)
        stopped = make(**settings)
        with pytest.raises(Interrupted):
            run_training(stopped)
    shutil.rmtree(folder)
    saved_by_peft(tiny_model, copy.deepcopy(KINDS["prompt"]), folder, scale=0.5)
    with pytest.raises(UserError, match=r"^--resume: .* was trained on something else: the teacher or its rows"):
        run_training(make(resume=True, **settings))
    shutil.rmtree(folder)
    shutil.copytree(teachers["prompt"], folder)
    resumed = make(resume=True, **settings)
    assert run_training(resumed).history == expected.history
    assert torch.equal(resumed.prompt(), whole.prompt())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher_weight": 1.5, "teacher": "x"}, "training.teacher_weight: expected 0 to 1, found 1.5"),
        (
            {"teacher_temperature": 0.0, "teacher": "x"},
            "training.teacher_temperature: expected a number above 0, found 0.0",
        ),
        (
            {"teacher_temperature": 2.0},
            "training.teacher_temperature: needs a teacher; set training.teacher or training.teacher_context",
        ),
        (
            {"teacher_weight": 1.0},
            "training.teacher_weight: needs a teacher; set training.teacher or training.teacher_context",
        ),
        (
            {"teacher_any_base": True, "teacher_context": "shots:2"},
            "training.teacher_any_base: is about an adapter; set training.teacher to its folder",
        ),
    ],
)
def test_settings_of_a_teacher_without_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_training(TrainingConfig(**settings), Accelerator(cpu=True), ["accuracy"], 40)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": "./nowhere"}, r"training.teacher: no such folder: ./nowhere"),
        (
            {"teacher_context": "./nowhere.txt"},
            r"training.teacher_context: no such file: nowhere.txt; name another, or write ",
        ),
        ({"teacher_context": "shots:41"}, r"training.teacher_context: 41 is not between 0 and the 40 rows of train$"),
        ({"teacher_context": "shots:0"}, r"training.teacher_context: shots:0 is not a context"),
        ({"teacher_context": " \n"}, r"training.teacher_context: the text is empty"),
        ({"teacher_context": "shots:39"}, r"training.teacher_context: .*do not fit into 256; use a shorter text or "),
    ],
)
def test_what_cannot_teach_is_one_line(make: Build, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}") as caught:
        run_training(make(**settings))
    assert "\n" not in str(caught.value)


def test_a_teacher_with_more_virtual_tokens_than_its_student_needs_room_for_every_row(
    make: Build, tiny_model: Path, tmp_path: Path
) -> None:
    """The longest row is not among those on which the teacher is tried."""
    saved_by_peft(tiny_model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=250), tmp_path / "long")
    with pytest.raises(
        UserError, match=r"^training.teacher: the longest row has \d+ tokens, and .*long leaves room for 6"
    ):
        run_training(make(teacher=str(tmp_path / "long")))


def test_a_teacher_of_other_words_is_refused(make: Build, wider_model: Path, tmp_path: Path, tiny_model: Path) -> None:
    folder = tmp_path / "teacher"
    shutil.copytree(tiny_model, folder)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.resize_token_embeddings(400)
    model.save_pretrained(folder)
    with pytest.raises(UserError, match=r"^training.teacher: .*another size of the vocabulary \(400 tokens and not"):
        run_training(make(teacher=str(folder)))
    run_training(make("wider", teacher=str(wider_model), **ONE_STEP))  # no other size is possible


def test_a_teacher_of_another_base_model_is_refused(make: Build, wider_model: Path, tmp_path: Path) -> None:
    saved_by_peft(wider_model, copy.deepcopy(KINDS["prompt"]), tmp_path / "teacher")
    with pytest.raises(UserError, match=r"^training.teacher: .* is for another base model: hidden size 64"):
        run_training(make(teacher=str(tmp_path / "teacher")))


@pytest.mark.parametrize("context", [False, True])
def test_a_teacher_of_several_tasks_is_refused(make: Build, tiny_model: Path, tmp_path: Path, context: bool) -> None:
    """Every row would learn the first task. A teacher of one task is one like any other."""
    for tasks in (1, 2):
        config = MultitaskPromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, num_tasks=tasks)
        saved_by_peft(tiny_model, config, tmp_path / f"{tasks}")
    settings: dict[str, Any] = {"teacher_context": CONTEXT} if context else {}
    run_training(make("one", teacher=str(tmp_path / "1"), **settings, **ONE_STEP))
    with pytest.raises(UserError, match=r"^training.teacher: \S+ has 2 tasks, and a teacher has one; write the soft"):
        run_training(make("two", teacher=str(tmp_path / "2"), **settings, **ONE_STEP))


def test_only_decoders_are_taught(tiny_t5: Path, tiny_task: Path, tmp_path: Path, capfd: Any) -> None:
    command = short_command("prompt_tuning", tiny_t5, tiny_task, tmp_path / "run", **{"training.teacher": "x"})
    code, _, errors = cli_in_process(command, capfd)
    assert code == 2
    assert errors[-1].endswith(
        "training.teacher: only a decoder can be taught, and the base model is an encoder-decoder; set it to null"
    )


def test_lessons_have_the_students_own_targets(make: Build) -> None:
    parts = make(teacher_context="shots:3")
    teacher = load_teacher(parts.engine, parts.data, parts.training, seed=0, say=print)
    assert teacher
    rows = [3, 0, 17]
    documents = [replace(parts.data.train[n].document, soft_prompt=0) for n in rows]
    taught: list[Any] = teacher.lessons(documents, rows)
    assert [Document(d.prompt_ids, d.target_ids) for d in taught] == documents
    head = teacher.train[0].document.prompt_ids[: teacher.head]
    for document in taught:
        assert document.lesson.target_ids == document.target_ids
        read = head + document.lesson.prompt_ids
        assert read[-len(document.prompt_ids) + 1 :] == document.prompt_ids[1:], "but for <s>"
