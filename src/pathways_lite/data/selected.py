"""A selection carried out: a new store out of the tokens of the one that was selected from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from pathways_lite.data.address import read_file
from pathways_lite.data.assemble import Streams, StreamWriter, finish_store
from pathways_lite.data.selection import Selection, digest, read_selection
from pathways_lite.data.store import MANIFEST, SPLITS, Split, Store, open_store
from pathways_lite.errors import UserError


def apply_selection(path: Path, store: Store, out: str, *, done: Callable[[int], None] = lambda tokens: None) -> Store:
    """The store `out` of the training documents that the selection file `path` keeps, in the domains it gives them.

    Within a domain, documents stand in the order of the old store. Held-out documents all stay, in their old domains,
    so that models are evaluated on the same text whatever was selected. An `out` that the same selection has made is
    left as it is. `done` is told, as it goes, how many more tokens of the old store are through.

    Raises UserError: a selection of another corpus or that does not fit it, one that keeps nothing, or an `out` that
    holds something else.
    """
    selection = read_selection(path, store)
    if not selection.kept.any():
        raise UserError(f"{path} keeps no document; a store needs at least one to train on")
    plan = {"selection": asdict(selection.origin) | {"digest": digest(path)}, "of": store.manifest.plan}
    if read_file(out, MANIFEST) is not None:
        there = open_store(out)
        if there.manifest.plan.get("selection", {}).get("digest") != plan["selection"]["digest"]:
            raise UserError(f"{out} holds another store; name another directory, or delete that one")
        return there
    domains, goes_to = _destinations(selection, store)
    writers = _writers(out, store, domains, goes_to)
    for old, name in enumerate(store.domains):
        for split in SPLITS:
            ids = np.asarray(store.document_ids(name, split), object)
            length = np.diff(store.document_starts(name, split))
            for first, stop, tokens in store.stretches(name, split):
                here = goes_to[old, split][first:stop]
                for new in np.unique(here[here >= 0]).tolist():
                    mine = here == new
                    writers[new, split].append(tokens[np.repeat(mine, length[first:stop])], ids[first:stop][mine])
                done(len(tokens))
    finish_store(out, domains, writers, store.tokenizer(), [], plan)
    return open_store(out)


GoesTo = dict[tuple[int, Split], np.ndarray]
"""By old domain and split: the new domain of each document, -1 for none."""


def _destinations(selection: Selection, store: Store) -> tuple[list[str], GoesTo]:
    """The new store's domains, sorted, and where documents go."""
    held_out = [name for name in store.domains if store.counts(name, "held_out").documents]
    domains = sorted({*(name for name in selection.to if name is not None), *held_out})
    number: dict[str | None, int] = {None: -1, **{name: i for i, name in enumerate(domains)}}
    train = np.array([number[name] for name in selection.to])
    counts = [store.counts(name).documents for name in store.domains]
    goes_to: GoesTo = {}
    for old, part in enumerate(np.split(train, np.cumsum(counts)[:-1])):
        name = store.domains[old]
        goes_to[old, "train"] = part
        goes_to[old, "held_out"] = np.full(store.counts(name, "held_out").documents, number.get(name, -1))
    return domains, goes_to


def _writers(out: str, store: Store, domains: Sequence[str], goes_to: GoesTo) -> Streams:
    writers: Streams = {}
    for split in SPLITS:
        where = np.concatenate([goes_to[old, split] for old in range(len(store.domains))])
        length = np.concatenate([np.diff(store.document_starts(name, split)) for name in store.domains])
        text_bytes = np.concatenate([store.document_text_bytes(name, split) for name in store.domains])
        for new in range(len(domains)):
            mine = where == new
            writers[new, split] = StreamWriter(out, new, split, length[mine], text_bytes[mine], store.vocab_size)
    return writers
