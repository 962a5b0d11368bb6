"""What the methods of `pathways-lite data select` have in common: a corpus, a model that reads it, and the end."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pathways_lite.cli.counting import counted
from pathways_lite.data.documents import Skipped
from pathways_lite.data.selection import Origin, Selection, require_directory, training_documents
from pathways_lite.data.sources import Source
from pathways_lite.data.store import Split, Store, open_store
from pathways_lite.errors import UserError

if TYPE_CHECKING:
    from pathways_lite.training.documents import Pooling

HELD_OUT = "held-out:"


class Reader:
    """A checkpoint that reads the documents of a corpus."""

    def __init__(self, path: Path, corpus: str) -> None:
        from pathways_lite.training.load import load_model

        self._loaded = load_model(path)
        self._setup = self._loaded.on_corpus(corpus)
        self._tokens = 0

    @cached_property
    def _params(self) -> Any:
        return self._loaded.params()

    def embeddings(self, pooling: Pooling, first: Sequence[np.ndarray] = ()) -> np.ndarray:
        """Of the documents `first`, then of all training documents; float32 [n, E]."""
        from pathways_lite.training.documents import embeddings

        with counted("reading", len(first) + self._stored, "documents") as done:
            return embeddings(self._setup, self._params, self._documents(first), pooling, done=done)

    def losses(self) -> np.ndarray:
        """Nats per token of all training documents, float32 [n]."""
        from pathways_lite.training.documents import mean_losses

        with counted("reading", self._stored, "documents") as done:
            return mean_losses(self._setup, self._params, self._documents(), done=done)

    @property
    def _stored(self) -> int:
        store = self._setup.store
        return sum(store.counts(domain).documents for domain in store.domains)

    def _documents(self, first: Sequence[np.ndarray] = ()) -> Iterator[np.ndarray]:
        """Those `first` and all training documents; their tokens are counted as they are read."""
        store = self._setup.store
        for document in itertools.chain(first, *(store.documents(domain) for domain in store.domains)):
            self._tokens += len(document)
            yield document

    def to_json(self) -> dict[str, Any]:
        """Which checkpoint, and what reading has cost until now, in model FLOPs."""
        from pathways_lite.training.documents import forward_flops

        flops = forward_flops(self._setup, self._tokens)
        return {"path": str(self._loaded.path), "digest": self._loaded.manifest.digest, "flops": flops}


class Selecting:
    """A selection that is being made."""

    def __init__(self, corpus: str, out: Path) -> None:
        require_directory(out)
        self._picture = out.with_suffix(".png")
        if self._picture == out:
            raise UserError(f"{out}: a picture of that name is written beside the selection; name it {out.stem}.jsonl")
        self.store = open_store(corpus)
        self.documents = training_documents(self.store)
        self._out, self._began = out, time.perf_counter()

    def own_domains(self, kept: np.ndarray) -> list[str | None]:
        """Documents that are `kept` stay in their domains."""
        names = self.store.domains
        return [names[d] if k else None for d, k in zip(self.documents.domain.tolist(), kept.tolist(), strict=True)]

    def finish(
        self,
        method: str,
        options: dict[str, Any],
        score: np.ndarray,
        to: Sequence[str | None],
        reader: Reader | None = None,
    ) -> None:
        """Write the file and the picture, and show what was selected."""
        from rich.console import Console

        from pathways_lite.cli.selection_shown import draw, shown

        seconds = time.perf_counter() - self._began
        model = None if reader is None else reader.to_json()
        origin = Origin(self.store.address, self.store.fingerprint, method, options, model)
        selection = Selection(origin, np.asarray(score, np.float64), to)
        selection.write(self._out, self.store)
        draw(selection, self.documents, self._picture)
        console = Console()
        console.print(shown(selection, self.store, self.documents, seconds))
        console.print(f"{self._out}: written, and {self._picture}", soft_wrap=True, highlight=False)
        console.print(
            f"To make a corpus of it: pathways-lite data apply {self._out} NEW_CORPUS", soft_wrap=True, highlight=False
        )


def texts(store: Store, split: Split, done: Callable[[int], None]) -> Iterator[str]:
    """All documents of a split, decoded; `done` is told of each."""
    decode = store.tokenizer().decode
    for domain in store.domains:
        for tokens in store.documents(domain, split):
            yield decode(tokens[1:].tolist())
            done(1)


def target_documents(store: Store, targets: Sequence[str]) -> list[np.ndarray]:
    """Tokens of target documents, EOD first: of sources of text, or of held-out documents of a domain."""
    found: list[np.ndarray] = []
    for target in targets:
        if target.startswith(HELD_OUT):
            some = list(store.documents(target.removeprefix(HELD_OUT), "held_out"))
        else:
            items = (item for piece in Source.parse(target).pieces() for item in piece.read())
            contents = [item.text for item in items if not isinstance(item, Skipped)]
            encoded = store.tokenizer().encode_batch(contents)
            some = [np.concatenate([[store.eod], ids]).astype(np.int32) for ids in encoded]
        if not some:
            raise UserError(f"--target {target}: there is not one document in it")
        found += some
    return found
