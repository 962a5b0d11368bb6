#!/usr/bin/env python3
"""Write text of chosen kinds and sizes as JSON lines, for studies whose question depends on what a corpus is made of.

    python tools/shaped_text.py quality.jsonl templates:4.9M plain=code:2.4M noise:0.8M
    python tools/shaped_text.py held_out.jsonl plain=code:300K --after quality.jsonl
    python tools/shaped_text.py pool.jsonl pool=code:4M pool=copies:1M pool=prose:0.6M --piece 2000
    python tools/shaped_text.py mine.jsonl big=novels.txt:2M small=mails.jsonl:70K

Each part is [DOMAIN=]KIND:SIZE, of about SIZE bytes of text (K, M: thousand, million); the domain's name is the kind's
where none is given. Kinds:

    code, prose   sources of the Python installation and their docstrings, as the source `python:` has them
    templates     sentences from a few templates with a few words for each place: almost nothing to learn
    noise         random printable characters: nothing to learn
    copies        near-copies, eight of each text, of code: 2 % of the words replaced by others of the same text
    any path      a file or directory that `pathways-lite data build` reads

Of code, prose and files no document is written twice, by this call or those that wrote the files of --after, and none
is above --largest bytes. --piece cuts the documents between lines. The order of documents is drawn with --seed; texts
of one kind come in the same order whatever their sizes. Ends with an error where a kind has too little text.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pathways_lite.data.documents import Document
from pathways_lite.data.sources import PYTHON, Source

COPIES = 8
REPLACED = 0.02  # of a copy's words
SENTENCES = 20  # of a document of templates
NOISE = 1500  # characters of a document of noise
_PART = re.compile(r"(?:(?P<domain>[\w.+-]+)=)?(?P<kind>.+):(?P<size>[\d.]+)(?P<unit>[KM]?)")
_UNITS = {"": 1, "K": 1_000, "M": 1_000_000}
_PLACES = {
    "PERSON": ("the clerk", "the guard", "the pilot", "the baker", "the judge", "the nurse", "the smith", "the cook"),
    "THING": ("letter", "basket", "lantern", "ladder", "parcel", "bottle", "ticket", "blanket"),
    "PLACE": ("station", "harbor", "market", "library", "garden", "bridge", "tower", "stable"),
    "TIME": ("morning", "evening", "afternoon", "night"),
}
_TEMPLATES = (
    "Every TIME PERSON carries a THING from the PLACE to the PLACE.",
    "When PERSON found the THING in the PLACE, it was already TIME.",
    "In the TIME PERSON and PERSON met at the PLACE to talk about the THING.",
    "Nobody at the PLACE had seen the THING that PERSON lost last TIME.",
)


class Part(NamedTuple):
    domain: str
    kind: str
    size: int  # bytes of text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="JSON lines to write, for `pathways-lite data build`")
    parser.add_argument("parts", nargs="+", type=parse_part, metavar="[DOMAIN=]KIND:SIZE")
    parser.add_argument("--after", nargs="*", type=Path, default=[], help="files whose documents are not written again")
    parser.add_argument("--piece", type=int, help="largest piece of a document, bytes; default: whole documents")
    parser.add_argument("--largest", type=int, default=40_000, help="bytes of a document")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    used = {json.loads(line)["source"] for path in arguments.after for line in path.read_text().splitlines()}
    texts = Texts(arguments.seed, arguments.largest, used)
    sizes: dict[str, int] = {}
    with arguments.path.open("w", encoding="utf-8") as file:
        for part in arguments.parts:
            for number, (source, text) in enumerate(take(part, texts, arguments.piece)):
                record = {"text": text, "domain": part.domain, "id": f"{source}#{number}", "source": source}
                file.write(json.dumps(record) + "\n")
                key = f"{part.domain}={part.kind}"
                sizes[key] = sizes.get(key, 0) + len(text.encode())
    print(json.dumps({"path": str(arguments.path), "bytes": sizes}))


def parse_part(text: str) -> Part:
    """Parse [DOMAIN=]KIND:SIZE."""
    if (match := _PART.fullmatch(text)) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not [DOMAIN=]KIND:SIZE, e.g. plain=code:2.4M")
    kind = match["kind"]
    size = float(match["size"]) * _UNITS[match["unit"]]
    return Part(match["domain"] or Path(kind).name.partition(".")[0], kind, round(size))


class Texts:
    """Endless made text by kind, and real text that is used up."""

    def __init__(self, seed: int, largest: int, used: set[str]) -> None:
        self._seed, self._largest, self._used = seed, largest, used
        self._open: dict[str, Iterator[tuple[str, str]]] = {}

    def of(self, kind: str) -> Iterator[tuple[str, str]]:
        """Yield (name of the source, text): where the last part of this kind ended."""
        if kind not in self._open:
            self._open[kind] = self._start(kind)
        return self._open[kind]

    def _start(self, kind: str) -> Iterator[tuple[str, str]]:
        made: dict[str, Callable[[random.Random], str]] = {"templates": make_templated, "noise": make_noise}
        if kind in made:
            return self._made(kind, made[kind])
        return self._copies() if kind == "copies" else self._real(kind)

    def _made(self, kind: str, make: Callable[[random.Random], str]) -> Iterator[tuple[str, str]]:
        rng, number = random.Random(f"{self._seed}-{kind}"), 0
        while True:
            text = make(rng)
            if (source := f"{kind}/{number}") not in self._used:
                yield source, text
            number += 1

    def _real(self, kind: str) -> Iterator[tuple[str, str]]:
        documents = read_documents(kind)
        random.Random(f"{self._seed}-{kind}").shuffle(documents)
        for document in documents:
            if len(document.text.encode()) <= self._largest and document.id not in self._used:
                self._used.add(document.id)
                yield document.id, document.text

    def _copies(self) -> Iterator[tuple[str, str]]:
        rng = random.Random(f"{self._seed}-copies")
        for source, text in self.of("code"):
            for copy in range(COPIES):
                yield f"{source}/copy{copy}", vary(text, rng) if copy else text


def read_documents(kind: str) -> list[Document]:
    """Read code or prose of the Python installation, or the files at a path."""
    of_python = kind in ("code", "prose")
    items = (item for chunk in Source.parse(PYTHON if of_python else kind).chunks() for item in chunk.read())
    documents = [item for item in items if isinstance(item, Document)]
    return [document for document in documents if document.domain == kind] if of_python else documents


def make_templated(rng: random.Random) -> str:
    """Fill the places of drawn templates with drawn words."""
    words = "|".join(_PLACES)
    return " ".join(
        re.sub(words, lambda match: rng.choice(_PLACES[match[0]]), rng.choice(_TEMPLATES)) for _ in range(SENTENCES)
    )


def make_noise(rng: random.Random) -> str:
    """Draw printable ASCII characters uniformly: log(95) = 4.55 nats each."""
    return "".join(map(chr, rng.choices(range(32, 127), k=NOISE)))


def vary(text: str, rng: random.Random) -> str:
    """Replace a few words of the text by others of it."""
    words = re.findall(r"\w+", text)
    return re.sub(r"\w+", lambda match: rng.choice(words) if rng.random() < REPLACED else match[0], text)


def take(part: Part, texts: Texts, piece: int | None) -> Iterator[tuple[str, str]]:
    """Yield documents, or pieces of them, until the part has its size; the last is cut between lines."""
    left = part.size
    for source, text in texts.of(part.kind):
        for whole in cut(text, piece) if piece else [text]:
            fitting = whole if len(whole.encode()) <= left else cut(whole, left)[0]
            yield source, fitting
            left -= len(whole.encode())
            if left <= 0:
                return
    raise SystemExit(f"error: {part.kind} has {part.size - left:,} bytes of text left, fewer than {part.size:,}")


def cut(text: str, size: int) -> Sequence[str]:
    """Cut the text between lines into pieces of at most `size` bytes; longer lines between characters."""
    pieces, current, length = [], "", 0
    for line in text.splitlines(keepends=True):
        for start in range(0, len(line), max(size // 4, 1)):  # of at most 4 bytes per character
            part = line[start : start + max(size // 4, 1)] if len(line.encode()) > size else line
            if length + len(part.encode()) > size and current:
                pieces.append(current)
                current, length = "", 0
            current, length = current + part, length + len(part.encode())
            if part is line:
                break
    return [*pieces, *([current] if current else [])]


if __name__ == "__main__":
    main()
