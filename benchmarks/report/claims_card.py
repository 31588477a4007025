"""The claims card as Markdown and as a section of a page.

Every sentence with a number is made from records. Where a record is missing, the claim names it and says nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.report.claims import Section
from benchmarks.report.evidence import Verdict
from benchmarks.report.html import details, table, text
from benchmarks.report.tables import ALPHA, markdown

RULE = (
    "A claim is about every pair of methods that it names. It holds where all comparisons are for it, and does not "
    "hold where one is against it. Scores on test rows are compared in pairs: a difference is shown where p, adjusted "
    f"for all comparisons of the task, is below {ALPHA}. Of what a run measures beside that (seconds, memory, loss on "
    "other text) a difference is shown where every seed of one method is below every seed of the other; with three "
    "seeds each, chance alone does that in one case of ten. No difference shown does not mean that there is none."
)


def card_markdown(sections: Sequence[Section], notes: Sequence[str] = ()) -> str:
    """Return the card as Markdown; of a verdict's findings those that are not for the claim.

    Args:
        sections: of the card.
        notes: what a reader must know of the records before any verdict.
    """
    lines = ["# Claims", RULE, *notes]
    for section in sections:
        lines.append(f"## {section.title}")
        for claim in section.claims:
            lines.append(f"### {claim.statement}")
            for verdict in claim.verdicts:
                others = [f"  - {f.sentence}" for f in verdict.findings[1:] if f.word != "holds"]
                lines.append("\n".join([f"- **{verdict.task}**: {verdict.sentence}", *others]))
        lines += [f"{caption}:\n\n{markdown(shown)}" for caption, shown in section.tables]
    return "\n\n".join(lines) + "\n"


CLASSES = {"holds": "holds", "does not hold": "fails", "no difference shown": "open"}


def card_html(sections: Sequence[Section], notes: Sequence[str] = ()) -> str:
    """Return the card as a section of a page; arguments as of `card_markdown`."""
    parts = ['<section id="claims"><h2>Claims</h2>', f'<p class="faint">{text(RULE)}</p>']
    parts += [f'<div class="verdict fails"><p>{text(note)}</p></div>' for note in notes]
    for section in sections:
        parts.append(f"<h3>{text(section.title)}</h3>")
        for claim in section.claims:
            parts.append(f"<h4>{text(claim.statement)}</h4>")
            parts += [_verdict_html(verdict) for verdict in claim.verdicts]
        shown = "".join(f'<p class="faint">{text(name)}</p>{table(rows, name)}' for name, rows in section.tables)
        if shown:
            parts.append(details("The numbers", shown))
    return "\n".join([*parts, "</section>"])


def _verdict_html(verdict: Verdict) -> str:
    word = verdict.word or "no verdict"
    rest, count = verdict.sentence[len(word) :], len(verdict.findings)
    items = "".join(f"<li>{text(f.sentence)}: {f.word}</li>" for f in verdict.findings)
    below = details(f"All {count} comparisons", f"<ul>{items}</ul>") if count > 1 else ""
    said = f"<p>{text(verdict.task)}: <b>{text(word.capitalize())}</b>{text(rest)}</p>"
    shown = f'<div class="verdict {CLASSES.get(word, "")}">{said}{below}</div>'
    return shown.replace(" %", "\N{NO-BREAK SPACE}%")
