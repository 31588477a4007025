"""Brand voice: the share of predictions in the voice of their reference, by rules of two voices for lines of copy."""

from softprompts.metrics import base

# The limits of the two houses whose lines the task `campaign` has: GitHub's topic pages, and Ravenports' port files.
LONGEST = {"sentence": 130, "label": 50}  # characters
ARTICLES = frozenset({"a", "an", "the"})
STATEMENT = frozenset({"is", "are", "was", "were"})  # a label names the product's kind; it does not state it
# Words whose full stop does not end a sentence.
ABBREVIATIONS = frozenset({"e.g.", "i.e.", "etc.", "vs.", "inc.", "approx.", "no."})
QUOTES = "\"'`()[]{}*“”‘’«»"


def broken_rule(text: str, voice: str) -> str | None:
    """Return the first rule of a voice, "sentence" or "label", that `text` breaks; None if it breaks none."""
    text = text.strip()
    words = text.split()
    if len(text.splitlines()) != 1:
        return "one line"
    if len(text) > LONGEST[voice]:
        return "length"
    if voice == "label" and words[0].lower() in ARTICLES:
        return "article"
    if voice == "label" and (not text[0].isalnum() or text[0] != text[0].upper()):
        return "capital"
    if voice == "label" and STATEMENT & {word.lower() for word in words}:
        return "no statement"
    if text.endswith(".") != (voice == "sentence") or text.endswith(("..", "!", "?", "…")):
        return "full stop"
    if any(map(_ends_sentence, words[:-1])):
        return "one sentence"
    return None


def voice_of(text: str) -> str | None:
    """Return the voice of a line of copy; None if it follows the rules of neither. No line follows both."""
    return next((voice for voice in LONGEST if broken_rule(text, voice) is None), None)


def _ends_sentence(word: str) -> bool:
    bare = word.strip(QUOTES)
    return bare.endswith((".", "!", "?", "…")) and bare.lower() not in ABBREVIATIONS


class BrandVoice(base.MeanMetric):
    """`compute(predictions=[str], references=[str])` -> `{"voice_rate": share in 0..1}` of predictions that follow all
    rules of the voice that their reference has.

    Of the reference only the voice counts: a prediction can have the voice and describe something else. The rules are

    - sentence: one line and one sentence of at most 130 characters, which ends with one full stop.
    - label: one line of at most 50 characters, without full stop, exclamation or question mark at the end. It begins
      with a capital letter or a digit, and not with an article. It has none of the words "is", "are", "was", "were".

    If a reference has neither voice, its row counts as wrong. For your own voices, copy this file, change the rules of
    `broken_rule`, and name the copy in task.metrics.
    """

    number = "voice_rate"

    def score(self, prediction: str, reference: str) -> float:
        voice = voice_of(reference)
        return voice is not None and broken_rule(prediction, voice) is None
