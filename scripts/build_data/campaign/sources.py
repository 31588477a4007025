"""Read names, descriptions and lines of copy from the files of the two sources."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import yaml

DESCRIPTION = 600  # most characters of a description, cut at the end of a sentence
TOPIC = re.compile(r"topics/[^/]+/index\.md")
PORT = re.compile(r"bucket_[^/]+/([^/]+)/(specification|descriptions/desc\.(single|primary))")
# Ports that a program made from the packages of a language or of a word list: most of their texts repeat each other.
GENERATED = re.compile(r"(perl|python|ruby|R|php|aspell|texlive)-")
SHORT = re.compile(r"(?m)^SDESC\[standard\]=[\t ]*(.+)$")


@dataclass(frozen=True)
class Product:
    """A product of a source: its name, description and line of copy as they were read, each in one line."""

    path: str
    name: str
    description: str
    copy: str


def read_topics(files: Mapping[str, str]) -> Iterator[Product]:
    """Yield the topics of GitHub Explore: Markdown files whose front matter has the name and the line."""
    for path, text in files.items():
        if TOPIC.fullmatch(path):
            _, head, body = re.split(r"(?m)^---[ \r]*$", text, maxsplit=2)
            fields = yaml.safe_load(head)
            copy = fields.get("short_description") or ""
            yield Product(
                path, str(fields["display_name"]), describe(plain_markdown(body)), " ".join(str(copy).split())
            )


def read_ports(files: Mapping[str, str]) -> Iterator[Product]:
    """Yield the ports of Ravenports that people described: a specification with the line, and a description."""
    for path, text in files.items():
        found = PORT.fullmatch(path)
        if not found or found[2] != "specification":
            continue
        folder, line = path.removesuffix("specification"), SHORT.search(text)
        kinds = (files.get(f"{folder}descriptions/desc.{kind}") for kind in ("single", "primary"))
        body = next((kind for kind in kinds if kind), "")
        yield Product(path, found[1], describe(plain_text(body)), " ".join(line[1].split()) if line else "")


def plain_markdown(text: str) -> str:
    """Return the paragraphs of Markdown as plain text: no headings, code, images, HTML and targets of links."""
    text = re.sub(r"(?s)```.*?```|<!--.*?-->", "", text)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]*)\](\([^)]*\)|\[[^\]]*\])", r"\1", text)
    text = re.sub(r"<[^>\s][^>]*>", "", text)
    text = re.sub(r"(\*\*|__|`)", "", text)
    return plain_text(re.sub(r"(?m)^#+ .*$", "", text))


def plain_text(text: str) -> str:
    """Return the whole sentences of the paragraphs of a text as one line, without lists, titles and indented lines."""
    kept = []
    for block in re.split(r"\n\s*\n", text.replace("\r", "").strip("\n")):
        lines = block.splitlines()
        if not any(re.match(r"\s*([-*+•o=~#|>]+|\d+[.)])(\s|$)|[=~*-]{3,}|\s{2,}|\.\. ", line) for line in lines):
            kept += re.findall(r"^.*[.!?)](?=\s|$)", " ".join(block.split()))  # no end such as "It consists of:"
    return " ".join(kept)


def sentences_of(text: str) -> list[str]:
    """Return the sentences of a text; only those that begin with a capital letter or digit end the one before."""
    return re.split(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!vs\.)(?<!etc\.)\s+(?=[A-Z\d\"'(])", text)


def describe(text: str) -> str:
    """Return as many of the first whole sentences as fit into `DESCRIPTION` characters."""
    kept = ""
    for sentence in sentences_of(text):
        if not sentence.endswith((".", "!", "?", ")")) or len(kept) + len(sentence) + 1 > DESCRIPTION:
            break
        kept = f"{kept} {sentence}".strip()
    return kept
