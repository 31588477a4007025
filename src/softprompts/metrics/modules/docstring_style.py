"""Docstring style: the share of predictions that are a good first line of a docstring."""

from softprompts.metrics import base

# PEP 8: lines of code have at most 79 characters. Of the one-line summaries of numpy 2.4.6, scipy 1.17.1, pandas 3.1.1
# and scikit-learn 1.9.1 that end in a full stop, 99 % are not longer.
LONGEST = 79  # characters

# Base forms of the verbs that begin a summary in those four libraries, as "Return" or "Returns", and about 60 similar
# verbs, chosen by hand. Words that begin noun phrases at least as often ("Index", "Label", "Log", "Smooth", "Support")
# are left out.
_VERBS = """
accept access accumulate adapt add adjust advance agglomerate aggregate align allocate allow alter append apply
approximate assemble assert assign assume attach attempt augment backfill balance bin binarize bind bootstrap box
bracket break broadcast build cache calculate calibrate call cancel cast center change check choose chop classify
clean clear clip close cluster coerce collapse collect color combine compare compile complement compose compress
compute concatenate conduct configure conform connect consolidate construct consume continue convert convolve copy
correct correlate count create cross-correlate customize cycle de-duplicate decide decode decompose deconvolve
decorate decrease deduce deduplicate define deindent delete deliver densify deprecate derive describe deserialize
design detect determine differentiate dilate disable disallow discard discretize dispatch display divide do down-cast
downcast download downsample draw drop dump duplicate elide eliminate emit emulate enable encode enforce enhance
ensure enumerate erode escape estimate evaluate evolve exchange exclude execute expand export express extend extract
factorize fail fast-forward fetch fill filter finalize find fit fix flag flatten flip floor fold force form format
forward freeze fuse gather generate get give go grab group grow guess handle hash help hide highlight hold identify
ignore imitate implement import impute include increase increment indicate infer inherit initialize initiate inject
insert inspect instantiate integrate interchange interleave interpolate interpret intersect invert invoke issue
iterate join justify keep learn let link list load localize locate look loop maintain make manage map mark mask match
maximize measure melt memoize merge mimic minimize modify monitor move multiply mutate negate normalize notify obtain
open optimize order orthonormalize override pack package pad parameterize parametrize parse partition pass patch
perform permute pick pickle pivot plot pop post-multiply post-process pre-multiply precompute predict prefix prepare
prepend preprocess preserve pretty-print prevent print process produce profile project promote propagate provide prune
pull push put query quote raise randomize rank ravel re-encode re-evaluate re-weight rearrange reassign rechunk recode
recompute reconstruct record recover reduce refine refit reflect register reindex reject relabel remap remove rename
render reorder repeat replace report represent request require resample rescale reset reshape resize resolve restart
restore restrict retrieve return reverse revert rewrite roll rotate round run sample sanitize save scale scan score
scramble search segment segregate select separate serialize set share shift show shrink shuffle simplify simulate skip
slice snap solve sort sparsify specify split squeeze stack standardize start stop store stream strip substitute
subtract suffix sum superpose suppress surround swap symmetrize synthesize tag take temper test throw tile tokenize
track train transform translate transpose traverse triangulate trim truncate try turn undo unfold unindent unpack
unpickle unpivot unravel unstack unwrap upcast update upgrade upsample use validate vectorize verify view visualize
walk warn weigh widen wrap write yield zoom
"""
VERBS = frozenset(_VERBS.split())
# Before one of these words, a verb's form is a noun: "Estimate of the error.", "List is empty."
NOUN_MARKS = frozenset({"of", "is", "are", "was", "were", "has", "have"})
# Words whose full stop does not end a sentence.
_ABBREVIATIONS = "e.g. i.e. a.k.a. w.r.t. al. approx. cf. eq. eqs. etc. fig. incl. no. ref. resp. vs."
ABBREVIATIONS = frozenset(_ABBREVIATIONS.split())
QUOTES = "\"'`()[]{}*“”‘’«»"
# The rules of `broken_rule`, in the order of its checks.
RULES = ("one line", "length", "imperative", "full stop", "one sentence")


def _is_imperative(words: list[str]) -> bool:
    first, second = words[0].rstrip(",."), "".join(words[1:2]).rstrip(",.")
    return first == first.capitalize() and first.lower() in VERBS and second not in NOUN_MARKS


def _ends_sentence(word: str) -> bool:
    bare = word.strip(QUOTES)
    return bare.endswith((".", "!", "?", "…")) and bare.lower() not in ABBREVIATIONS


def broken_rule(text: str) -> str | None:
    """Return the first of `RULES` that `text`, without surrounding space, breaks; None if it breaks none."""
    text = text.strip()
    if len(text.splitlines()) != 1:
        return "one line"
    if len(text) > LONGEST:
        return "length"
    words = text.split()
    if not _is_imperative(words):
        return "imperative"
    if not text.endswith(".") or text.endswith(".."):
        return "full stop"
    *inner, last = words
    if any(map(_ends_sentence, [*inner, last[:-1]])) or any(c in text for c in "。！？"):
        return "one sentence"
    return None


class DocstringStyle(base.MeanMetric):
    """`compute(predictions=[str], references=[str])` -> `{"style_rate": share in 0..1}` of predictions that follow all
    rules.

    The references do not count: a prediction can follow the rules and mean something else. The rules are

    - one line: not empty, and no line break. PEP 257, "One-line Docstrings"; numpydoc style guide, "Short summary".
    - length: at most `LONGEST` characters. PEP 8, "Maximum Line Length".
    - imperative: the first word has a capital letter and is in the list `VERBS`, and no word of `NOUN_MARKS` follows
    it. An
      unknown word breaks the rule, as do "Returns", "Returning", "The" and "This function". PEP 257:
      "It prescribes the function or method's effect as a command ("Do this", "Return that"), not as a description".
    - full stop: exactly one at the end. PEP 257: "The docstring is a phrase ending in a period."
    - one sentence: no inner word ends in a full stop, an exclamation or question mark, except `ABBREVIATIONS`.
    """

    reference_free = True

    number = "style_rate"

    def score(self, prediction: str, reference: str) -> float:
        return broken_rule(prediction) is None
