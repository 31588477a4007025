"""Pieces of a page that needs nothing beside itself: escaped text, tables that scroll on their own, its style."""

from __future__ import annotations

import html
import json
from typing import Any

from benchmarks.report.tables import Table

# Contrast of text and links on its ground is 4.5 or more in both schemes (WCAG 2, AA).
STYLE = """
:root{color-scheme:light dark;--ground:#fff;--raised:#f4f5f7;--text:#1b1f24;--faint:#57606a;--line:#d0d7de;
--link:#0550ae;--yes:#116329;--no:#a40e26;--open:#6b4f00}
@media(prefers-color-scheme:dark){:root{--ground:#0f1318;--raised:#1a2028;--text:#e6e9ee;--faint:#a3adb8;--line:#39424e;
--link:#7cb7ff;--yes:#6fdd8b;--no:#ff9492;--open:#e8c35a}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:76rem;padding:1rem;background:var(--ground);color:var(--text);
font:1rem/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;overflow-wrap:anywhere}
h1{font-size:1.6rem;line-height:1.25}h2{font-size:1.3rem;margin-top:2.5rem;border-bottom:1px solid var(--line)}
h3{font-size:1.08rem;margin:1.6rem 0 .4rem}h4{font-size:1rem;margin:1.2rem 0 .2rem}
p{max-width:48rem}a{color:var(--link)}
nav ul{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.3rem 1.2rem}
nav a{display:inline-block;padding:.3rem 0}
.faint,figcaption{color:var(--faint);font-size:.92rem}
.scroll{overflow-x:auto;max-width:100%;margin:.6rem 0;border:1px solid var(--line);border-radius:6px}
.scroll:focus-visible,summary:focus-visible,a:focus-visible{outline:3px solid var(--link);outline-offset:1px}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums;overflow-wrap:normal}
th,td{padding:.35rem .6rem;text-align:left;border-bottom:1px solid var(--line);white-space:nowrap;vertical-align:top}
tr:last-child>*{border-bottom:0}thead th{background:var(--raised)}tbody th{font-weight:600;background:var(--ground)}
.texts td{white-space:pre-wrap;min-width:11rem;overflow-wrap:anywhere}
pre{margin:0;padding:.6rem;font-size:.82rem;max-height:24rem;overflow:auto;white-space:pre-wrap;background:var(--raised)}
details{border:1px solid var(--line);border-radius:6px;margin:.5rem 0;padding:0 .8rem}
details>summary{cursor:pointer;padding:.5rem 0;font-weight:600}details[open]{padding-bottom:.6rem}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:1.2rem}
figure{margin:0;max-width:34rem}figure svg{width:100%;height:auto;display:block}
.verdict{border-left:4px solid var(--line);padding-left:.8rem;margin:.5rem 0;max-width:52rem}.verdict p{margin:.2rem 0}
.holds{border-color:var(--yes)}.fails{border-color:var(--no)}.open{border-color:var(--open)}
.holds b{color:var(--yes)}.fails b{color:var(--no)}.open b{color:var(--open)}
@media print{body{max-width:none;font-size:9pt}.scroll{overflow:visible;border:0}
th,td{white-space:normal;padding:.15rem .3rem}
nav{display:none}tr,figure,.verdict{break-inside:avoid}h2,h3,h4{break-after:avoid}pre{max-height:none}}
@media(min-width:40rem){tbody th{position:sticky;left:0}}
"""


def text(value: Any) -> str:
    """Return a value as text that no browser takes for markup."""
    return html.escape(str(value), quote=True)


def table(shown: Table, caption: str, style: str = "") -> str:
    """Return a table in a box of its own that scrolls sideways, by keyboard too; `caption` names it."""
    head = "".join(f'<th scope="col">{text(cell)}</th>' for cell in shown.head)
    rows = "".join(
        f'<tr><th scope="row">{text(row[0])}</th>{"".join(f"<td>{text(cell)}</td>" for cell in row[1:])}</tr>\n'
        for row in shown.rows
    )
    body = f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table>"
    classes = f"scroll {style}".strip()
    return f'<div class="{classes}" role="region" aria-label="{text(caption)}" tabindex="0">{body}</div>'


def details(summary: str, content: str) -> str:
    """Return content that opens on demand; it is HTML already."""
    return f"<details><summary>{text(summary)}</summary>\n{content}\n</details>"


def values(title: str, value: Any) -> str:
    """Return JSON values that open on demand."""
    return details(title, f"<pre>{text(json.dumps(value, indent=1, ensure_ascii=False))}</pre>")


def document(title: str, body: str) -> str:
    """Return a whole page. It loads nothing, and may not: the policy forbids all but its own style."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<style>{STYLE}</style>
</head>
<body>
{body}
</body>
</html>
"""
