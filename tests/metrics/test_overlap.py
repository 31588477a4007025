"""ROUGE-L, chrF and BLEU: short cases by hand, and the libraries' own corpus numbers."""

from __future__ import annotations

import random

from softprompts.metrics.scoring import compute_metrics, load_metrics

import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

WORDS = ["The", "the", "cat", "cats", "sat,", "a", "mat", ".", "1,000", "dogs'", "größe", "猫", "(ran)", "U.S."]


def score(name: str, answers: list[str], targets: list[str]) -> float:
    return compute_metrics(load_metrics([name]), answers, targets)[name]


@pytest.fixture(scope="module")
def texts() -> tuple[list[str], list[str]]:
    generator = random.Random(0)
    targets = [" ".join(generator.choices(WORDS, k=generator.randint(1, 12))) for _ in range(80)]
    answers = []
    for target in targets:
        words = [w if generator.random() < 0.7 else generator.choice(WORDS) for w in target.split()]
        answers.append(" ".join(words[: generator.randint(0, 12)]))
    assert "" in answers
    return answers, targets


def test_chrf_is_sacrebleus(texts: tuple[list[str], list[str]]) -> None:
    answers, targets = texts
    expected = CHRF(char_order=6, word_order=0, beta=2).corpus_score(answers, [targets]).score / 100
    assert 0.1 < expected < 0.9
    assert score("chrf", answers, targets) == expected


def test_bleu_is_sacrebleus(texts: tuple[list[str], list[str]]) -> None:
    answers, targets = texts
    expected = BLEU(tokenize="13a").corpus_score(answers, [targets]).score / 100
    assert 0.1 < expected < 0.9
    assert score("bleu", answers, targets) == expected


def test_rouge_l_is_the_mean_of_rouge_scores(texts: tuple[list[str], list[str]]) -> None:
    """Of the rows whose target is in Latin letters; the answers may be in any."""
    pairs = [(a, t) for a, t in zip(*texts, strict=True) if "猫" not in t]
    answers, targets = [a for a, _ in pairs], [t for _, t in pairs]
    assert any("猫" in a for a in answers)
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    each = [scorer.score(t, a)["rougeL"].fmeasure for a, t in zip(answers, targets, strict=True)]
    assert score("rouge_l", answers, targets) == pytest.approx(sum(each) / len(each), abs=1e-12)


def test_rouge_l_by_hand() -> None:
    # "the", "cat", "mat" in this order: precision 3/4, recall 3/6.
    assert score("rouge_l", ["the cat: Mat on"], ["the cat sat on a mat"]) == pytest.approx(2 * 3 / (4 + 6))
    # Words of more than three letters count by their stem.
    assert score("rouge_l", ["walking cat"], ["walked cats"]) == 1.0


@pytest.mark.parametrize(
    ("text", "half", "expected"),
    [
        ("今天天气很好，去公园。", "今天天气", 2 * 4 / (4 + 9)),
        ("カタカナとひらがな", "カタ", 2 * 2 / (2 + 9)),
        ("สวัสดี", "สวั", 2 * 2 / (2 + 4)),  # a letter with its marks is one word
        ("हिन्दी में लिखो", "हिन्दी", 2 * 1 / (1 + 3)),
        ("مرحبا بالعالم", "مرحبا", 2 * 1 / (1 + 2)),
        ("Привет, мир", "привет", 2 * 1 / (1 + 2)),
        ("한국어 문장", "한국어", 2 * 1 / (1 + 2)),
        ("iPhone 很好", "iphones", 2 * 1 / (1 + 3)),  # words of a-z are stemmed here, too
        ("е\u0308ж", "\u0451ж", 1.0),  # composed or not, it is one letter
    ],
)
def test_a16_rouge_l_reaches_references_of_any_script(text: str, half: str, expected: float) -> None:
    assert score("rouge_l", [text], [text]) == 1.0
    assert score("rouge_l", [half], [text]) == pytest.approx(expected)
    assert score("rouge_l", ["other words"], [text]) == 0.0


def test_chrf_by_hand() -> None:
    # Orders 1 and 2 only, longer n-grams do not occur: "ab" in "abc" has precision 1, 1 and recall 2/3, 1/2.
    recall = (2 / 3 + 1 / 2) / 2
    assert score("chrf", ["a b"], ["abc"]) == pytest.approx(5 * recall / (4 + recall))


def test_bleu_by_hand() -> None:
    # 5, 4, 3 and 2 n-grams of 5, 4, 3 and 2 are right; the answer is 5 words, the reference 6: exp(1 - 6/5).
    assert score("bleu", ["the cat sat on a"], ["the cat sat on a mat"]) == pytest.approx(0.8187307530779818)


@pytest.mark.parametrize("name", ["rouge_l", "chrf", "bleu"])
@pytest.mark.parametrize("answer", ["", "\ud800", "\x00", "?!", "猫", "a" * 20_000])
def test_whatever_a_model_writes_is_scored(name: str, answer: str) -> None:
    assert score(name, [answer], ["the cat"]) == pytest.approx(0.0, abs=0.01)
    assert score(name, ["the cat sat on a mat"], ["the cat sat on a mat"]) == pytest.approx(1.0)
