"""What a user of a corpus should know before training on it: sentences for `data build`, `data inspect` and `train`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pathways_lite.data.store import Store

MANY_DOMAINS = 64
_LARGE_SHARE = 0.05  # of the text that is held out, where less was asked for


def corpus_notes(store: Store) -> list[str]:
    """Return sentences about a corpus's tokenizer, files, held-out text and domains; none where all is as expected."""
    notes = _content_notes(store)
    if store.manifest.pieces is None:
        notes.append("It has no digests of its files, as it was built by an earlier version; `data fsck` verifies it.")
    return notes


def _content_notes(store: Store) -> list[str]:
    notes = []
    if (frame := store.frame).closes is not None:
        notes.append(f"Documents are opened by BOS, id {frame.opens}, and closed by EOS, id {frame.closes}.")
    if store.manifest.round_trip is not None and store.is_lossy:
        notes.append(f"{store.manifest.round_trip}.")
    notes += _held_out_notes(store)
    if len(store.domains) >= MANY_DOMAINS:
        notes.append(
            f"It has {len(store.domains):,} domains, as many as values of the field `domain` of the records, or as "
            "sources. Each has files, an evaluation and a line of every table of its own. If that is not meant, build "
            "it with another --domain-field, or name the source NAME=SOURCE to put all of it into one domain."
        )
    return notes


def training_notes(store: Store, evaluation_tokens: int) -> list[str]:
    """Return the `corpus_notes` on its content, and what the evaluations of a stage make of it."""
    notes = _content_notes(store)
    scored = sum(min(store.tokens(name, "held_out"), evaluation_tokens) for name in store.domains)
    if len(store.domains) >= MANY_DOMAINS and scored:
        notes.append(
            f"Each evaluation scores {scored:,} held-out tokens: up to evaluation.tokens={evaluation_tokens:,} of "
            "every domain."
        )
    return notes


def name_some(names: Sequence[str], limit: int = 5) -> str:
    """Join names as text, and count those beyond the limit."""
    more = f" and {len(names) - limit:,} more domains" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _held_out_notes(store: Store) -> Iterator[str]:
    without = [name for name in store.domains if not store.tokens(name, "held_out")]
    if len(without) == len(store.domains):
        yield (
            "Nothing is held out, so there will be no evaluation: no domain has two documents, or --held-out was 0. "
            "Build it with --held-out FILE to evaluate on other text, or with its text in more than one document."
        )
        return
    if without:
        yield f"Nothing is held out of {name_some(without)}, so there will be no evaluation of it."
    asked = store.manifest.plan.get("held_out")
    held_out = sum(store.text_bytes(name, "held_out") for name in store.domains)
    share = held_out / max(1, held_out + sum(map(store.text_bytes, store.domains)))
    if isinstance(asked, float) and share > max(_LARGE_SHARE, 2 * asked):
        yield (
            f"{share:.0%} of the text is held out ({held_out:,} bytes), where {asked:.2%} of the documents were asked "
            "for: whole documents are held out, at least one of a domain, and these are long or few. To train on more, "
            "cut the text into more documents, or name what is held out with --held-out FILE."
        )
