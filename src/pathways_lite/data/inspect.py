"""Describe a token store's content for people: the command `pathways-lite data inspect`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from pathways_lite.console import Table, escape_controls
from pathways_lite.data.notes import corpus_notes
from pathways_lite.data.store import SPLITS, Counts, Split, Store
from pathways_lite.data.token_texts import token_texts

_MAX_ROWS = 2 * 64  # of the table: two splits of each domain


@dataclass(frozen=True)
class Row:
    """The sizes of one split of one domain."""

    domain: str
    split: Split
    counts: Counts
    frame_tokens: int = 1  # of each document, beside those of its text

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text per token (the inverse of fertility), without those that open and close documents."""
        return self.counts.text_bytes / max(1, self.counts.tokens - self.frame_tokens * self.counts.documents)


@dataclass(frozen=True)
class TokenText:
    """A token and its text; empty where several tokens make up a character and another one has it."""

    id: int
    text: str


@dataclass(frozen=True)
class Sample:
    """The beginning of a document, decoded from its tokens."""

    domain: str
    split: Split
    id: str
    text: str
    tokens: list[TokenText] | None = None  # of the text and perhaps a few more; where they were asked for


@dataclass(frozen=True)
class Description:
    """The result of `pathways-lite data inspect`."""

    address: str
    fingerprint: str
    tokenizer: str
    vocab_size: int
    skipped: int
    rows: list[Row]
    samples: list[Sample]
    selection: str | None = None  # how it was selected from another store, if it was
    notes: tuple[str, ...] = ()  # sentences about what a user should know

    def __rich__(self) -> RenderableType:
        table = Table("domain", "split", title=Text(self.address))
        for heading in ("documents", "tokens", "bytes", "bytes/token"):
            table.add_column(heading, justify="right")
        for row in self.rows[:_MAX_ROWS]:
            counts = row.counts
            fertility = f"{row.bytes_per_token:.2f}" if counts.tokens else "-"
            numbers = (f"{counts.documents:,}", f"{counts.tokens:,}", f"{counts.text_bytes:,}", fertility)
            table.add_row(Text(row.domain), row.split, *numbers)
        if len(self.rows) > _MAX_ROWS:
            table.caption = f"and {(len(self.rows) - _MAX_ROWS) // len(SPLITS):,} more domains"
        facts = [f"fingerprint {self.fingerprint}", f"tokenizer {self.tokenizer}, {self.vocab_size:,} tokens"]
        if self.skipped:
            facts.append(f"documents that could not be read: {self.skipped:,}, listed in {self.address}/skipped.txt")
        if self.selection:
            facts.append(self.selection)
        facts += self.notes
        samples = [Text.assemble(f"\n{s.domain}/{s.split} {s.id}\n", _render_sample(s)) for s in self.samples]
        return Group(table, *map(Text, facts), *samples)


def _render_sample(sample: Sample) -> Text:
    """Show a sample's text, or its tokens between bars; a token without text of its own is a dot."""
    if sample.tokens is None:
        return Text(sample.text)
    text = Text()
    for token in sample.tokens:
        text.append(escape_controls(token.text) or "·", style="underline" if token.text.isspace() else "")
        text.append("|", style="cyan")
    return text


def describe(store: Store, *, samples: int = 1, characters: int = 400, tokens: bool = False) -> Description:
    """Return the sizes of all domains and the beginnings of `samples` training documents of each, evenly spread.

    `tokens`: also the tokens of these beginnings, as the tokenizer cut them.
    """
    manifest = store.manifest
    return Description(
        address=store.address,
        fingerprint=store.fingerprint,
        tokenizer=f"{manifest.tokenizer_kind} {manifest.tokenizer[:12]}",
        vocab_size=store.vocab_size,
        skipped=manifest.skipped,
        selection=_describe_selection(manifest.plan),
        rows=[
            Row(domain, split, store.counts(domain, split), store.frame.size)
            for domain in store.domains
            for split in SPLITS
        ],
        notes=tuple(corpus_notes(store)),
        samples=[item for domain in store.domains for item in _samples(store, domain, samples, characters, tokens)],
    )


def _describe_selection(plan: dict[str, Any]) -> str | None:
    if (origin := plan.get("selection")) is None:
        return None
    options = ", ".join(f"{name}={value}" for name, value in origin["options"].items())
    return f"selected by {origin['method']} ({options}) from the corpus {origin['fingerprint'][:12]}"


def _samples(store: Store, domain: str, n: int, characters: int, tokens: bool) -> Iterator[Sample]:
    documents = store.counts(domain).documents
    for i in range(min(n, documents)):
        document = (2 * i + 1) * documents // (2 * min(n, documents))
        yield sample_document(store, domain, document, characters, tokens=tokens)


def sample_document(store: Store, domain: str, document: int, characters: int, *, tokens: bool = False) -> Sample:
    """Return the beginning of a training document."""
    start, end = store.document_starts(domain)[document : document + 2].tolist()
    # A token is at least one byte, a character at most four.
    stop = min(end, start + 1 + 4 * characters)
    ids = store.frame.from_stream(store.read(domain, "train", start + 1, stop)).tolist()
    name, text = store.document_id(domain, "train", document), store.tokenizer().decode(ids)
    cut = _cut_tokens(token_texts(store.tokenizer(), ids), ids, characters) if tokens else None
    return Sample(domain, "train", name, text[:characters], cut)


def _cut_tokens(texts: list[str], ids: list[int], characters: int) -> list[TokenText]:
    """Return the first tokens, which have at least `characters` characters together, or all."""
    ends = itertools.accumulate(map(len, texts))
    count = next((i for i, end in enumerate(ends, 1) if end >= characters), len(ids))
    return [TokenText(id_, text) for id_, text in zip(ids[:count], texts[:count], strict=True)]
