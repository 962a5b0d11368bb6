"""Shared parts of `pathways-lite data select`: reading a corpus with a model, and writing and showing a selection."""

from __future__ import annotations

import contextlib
import itertools
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from pathways_lite.cli.common import count_progress, print_json
from pathways_lite.console import Table
from pathways_lite.data.documents import Skipped
from pathways_lite.data.inspect import sample_document
from pathways_lite.data.selection import Origin, Selection, TrainingDocuments, require_directory, training_documents
from pathways_lite.data.sources import Source
from pathways_lite.data.store import Split, Store, open_store
from pathways_lite.errors import UserError
from pathways_lite.output_lock import lock_file
from pathways_lite.tracking.formatting import duration, si

if TYPE_CHECKING:
    from pathways_lite.evaluation.document_scores import Pooling

HELD_OUT = "held-out:"
"""Prefix of a target that names held-out documents of a domain."""


class CorpusReader:
    """Reads the documents of a corpus with a checkpoint's model."""

    def __init__(self, path: Path, corpus: str) -> None:
        from pathways_lite.training.load import load_model

        self._model = load_model(path)
        self._store = self._model.open_corpus(corpus)
        self._evaluator = self._model.components.evaluator_on(self._store)
        self._tokens_read = 0

    @cached_property
    def _params(self) -> Any:
        return self._model.params()

    def embeddings(self, pooling: Pooling, first: Sequence[np.ndarray] = ()) -> np.ndarray:
        """Return the embeddings of the documents `first`, then of all training documents; float32 [n, E]."""
        from pathways_lite.evaluation.document_scores import embeddings

        with count_progress("reading", len(first) + self._n_documents, "documents") as done:
            return embeddings(self._evaluator, self._params, self._documents(first), pooling, done=done)

    def losses(self) -> np.ndarray:
        """Return the nats per token of all training documents, float32 [n]."""
        from pathways_lite.evaluation.document_scores import mean_losses

        with count_progress("reading", self._n_documents, "documents") as done:
            return mean_losses(self._evaluator, self._params, self._documents(), done=done)

    @property
    def _n_documents(self) -> int:
        return sum(self._store.counts(domain).documents for domain in self._store.domains)

    def _documents(self, first: Sequence[np.ndarray] = ()) -> Iterator[np.ndarray]:
        """Yield the documents `first`, then all training documents, and count their tokens."""
        store = self._store
        for document in itertools.chain(first, *(store.documents(domain) for domain in store.domains)):
            self._tokens_read += len(document)
            yield document

    def to_json(self) -> dict[str, Any]:
        """Return the checkpoint, and the cost of reading so far in model FLOPs."""
        from pathways_lite.evaluation.document_scores import forward_flops

        flops = forward_flops(self._model.stage, self._tokens_read)
        return {"path": str(self._model.path), "digest": self._model.manifest.digest, "flops": flops}


class SelectionBuilder:
    """Builds a selection from a corpus, and writes and shows it."""

    def __init__(self, corpus: str, out: Path, as_json: bool = False, *, keep: float | None = None) -> None:
        """Open the corpus. Raises UserError where the fraction `keep` of its tokens is too little for any document."""
        require_directory(out)
        self._picture = out.with_suffix(".png")
        if self._picture == out:
            raise UserError(
                f"{out} would be overwritten by the selection's picture; name the selection {out.stem}.jsonl"
            )
        # Held until the selection is written, as reading a corpus with a model takes hours.
        self._lock = contextlib.ExitStack()
        self._lock.enter_context(lock_file(out))
        weakref.finalize(self, self._lock.close)
        self.store = open_store(corpus)
        self.documents = training_documents(self.store)
        self._out, self._start, self._as_json = out, time.perf_counter(), as_json
        shortest, total = int(self.documents.tokens.min()), int(self.documents.tokens.sum())
        if keep is not None and keep * total <= shortest / 2:
            raise UserError(
                f"--keep {keep:g} of {total:,} tokens is at most half of the shortest document ({shortest:,} tokens), "
                f"so nothing would be kept; use --keep {min(1.0, shortest / total):.2g} or more"
            )

    def own_domains(self, kept: np.ndarray) -> list[str | None]:
        """Return each document's own domain if it is `kept`, else None."""
        names = self.store.domains
        return [names[d] if k else None for d, k in zip(self.documents.domain.tolist(), kept.tolist(), strict=True)]

    def finish(
        self,
        method: str,
        options: dict[str, Any],
        score: np.ndarray,
        new_domains: Sequence[str | None],
        reader: CorpusReader | None = None,
    ) -> None:
        """Write the file and the picture, and show what was selected. Raises UserError where that is nothing."""
        from pathways_lite.console import Console

        if not any(new_domains):
            raise UserError(f"{method} keeps no document with these options; use a larger --keep")
        seconds = time.perf_counter() - self._start
        model = None if reader is None else reader.to_json()
        origin = Origin(self.store.address, self.store.fingerprint, method, options, model)
        selection = Selection(origin, np.asarray(score, np.float64), new_domains)
        with self._lock:
            selection.write(self._out, self.store)
            draw_histogram(selection, self.documents, self._picture)
        if self._as_json:
            tokens, kept = self.documents.tokens, selection.kept
            counts = {"documents": len(tokens), "tokens": tokens.sum()}
            counts |= {"kept_documents": kept.sum(), "kept_tokens": tokens[kept].sum()}
            print_json({"selection": self._out, "picture": self._picture, **counts, "seconds": seconds, "model": model})
            return
        console = Console()
        console.print(render_selection(selection, self.store, self.documents, seconds))
        console.print(f"wrote {self._out} and {self._picture}", soft_wrap=True)
        console.print(f"To build a corpus of it: pathways-lite data apply {self._out} NEW_CORPUS", soft_wrap=True)


def decoded_texts(store: Store, split: Split, done: Callable[[int], None]) -> Iterator[str]:
    """Yield the text of all documents of a split; calls `done(1)` after each."""
    decode = store.tokenizer().decode
    for domain in store.domains:
        for tokens in store.documents(domain, split):
            yield decode(tokens[1:].tolist())
            done(1)


def target_documents(store: Store, targets: Sequence[str]) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the tokens of target documents, the opening one first, and the number of the target that each is of.

    Targets are text sources or held-out documents of a domain.
    """
    documents: list[np.ndarray] = []
    numbers: list[int] = []
    for number, target in enumerate(targets):
        if target.startswith(HELD_OUT):
            tokens = list(store.documents(target.removeprefix(HELD_OUT), "held_out"))
        else:
            items = (item for chunk in Source.parse(target).chunks() for item in chunk.read())
            contents = [item.text for item in items if not isinstance(item, Skipped)]
            encoded = store.tokenizer().encode_batch(contents)
            tokens = [np.concatenate([[store.frame.opens], ids]).astype(np.int32) for ids in encoded]
        if not tokens:
            raise UserError(f"--target {target} has no documents")
        documents += tokens
        numbers += [number] * len(tokens)
    return documents, np.array(numbers)


# ---- a selection as tables and as a histogram ----

_SCORES = {
    "prototypes": "distance from the nearest prototype",
    "clusters": "distance from the center of the cluster",
    "perplexity": "nats per token",
    "rds": "cosine similarity to the nearest target",
    "near-duplicates": "similarity to an earlier document",
    "random": "random number",
}
_EXAMPLES, _CHARACTERS = 3, 100
_BINS = 60


def render_selection(
    selection: Selection, store: Store, documents: TrainingDocuments, seconds: float
) -> RenderableType:
    """Return tables of the domains, and of the lowest and highest scores with examples, and the cost."""
    origin, n = selection.origin, len(documents.tokens)
    lines = [
        f"{n:,} documents, {documents.tokens.sum():,} tokens in {duration(seconds)}: {n / seconds:,.0f} documents/s"
    ]
    if origin.model is not None:
        lines.append(
            f"read by {origin.model['path']}: {si(origin.model['flops'], 'FLOPs')}, to be counted in comparisons"
        )
    return Group(
        _domain_table(selection, store, documents), _extremes_table(selection, store, documents), *map(Text, lines)
    )


def _domain_table(selection: Selection, store: Store, documents: TrainingDocuments) -> Table:
    """Return a table with a row per domain, new domains included."""
    table = Table("domain", title=f"kept by {selection.origin.method}")
    for heading in ("documents", "tokens", "share", "5 %", "score", "95 %"):
        table.add_column(heading, justify="right")
    own = np.array(store.domains)[documents.domain]
    new = np.array([to or name for to, name in zip(selection.destinations, own.tolist(), strict=True)])
    for name in np.unique(new):
        in_domain = new == name
        kept = in_domain & selection.kept
        tokens, before = documents.tokens[kept].sum(), documents.tokens[np.isin(own, own[in_domain])].sum()
        quantiles = (f"{q:.3g}" for q in np.quantile(selection.score[in_domain], [0.05, 0.5, 0.95]))
        table.add_row(Text(name), f"{kept.sum():,}", f"{tokens:,}", f"{tokens / before:.1%}", *quantiles)
    return table


def _extremes_table(selection: Selection, store: Store, documents: TrainingDocuments) -> Table:
    """Return a table with the documents of the lowest and of the highest scores."""
    table = Table("score", "domain", "document", "start")
    table.title = f"lowest and highest: {_SCORES.get(selection.origin.method, 'score')}"
    order = np.argsort(selection.score, kind="stable")
    for i in [*order[:_EXAMPLES], *order[_EXAMPLES:][-_EXAMPLES:]]:
        document = sample_document(store, store.domains[documents.domain[i]], int(documents.number[i]), _CHARACTERS)
        text = Text(" ".join(document.text.split()), overflow="ellipsis", no_wrap=True)
        domain = Text(selection.destinations[i] or "left out")
        table.add_row(f"{selection.score[i]:.4g}", domain, Text(f"{document.domain} {document.id}"), text)
    return table


def draw_histogram(selection: Selection, documents: TrainingDocuments, path: Path) -> None:
    """Draw a histogram of the scores as PNG, weighted by tokens: of kept documents and of those left out."""
    from matplotlib.figure import Figure

    from pathways_lite.tracking.plot_style import save_figure, style

    kept = selection.kept
    with style("light") as palette:
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        ax = figure.subplots()
        edges = np.histogram_bin_edges(selection.score, _BINS)
        groups = [(~kept, "left out", palette.grid), (kept, "kept", palette.series[0])]
        bottom = np.zeros(_BINS)
        for mask, label, color in groups:
            tokens = np.histogram(selection.score[mask], edges, weights=documents.tokens[mask])[0]
            fraction = tokens / documents.tokens.sum()
            ax.bar(edges[:-1], fraction, np.diff(edges), bottom, align="edge", color=color, label=label)
            bottom += fraction
        if selection.origin.method == "near-duplicates":  # nearly all are at 0
            ax.set_yscale("log")
        ax.set_xlabel(_SCORES.get(selection.origin.method, "score"))
        ax.set_ylabel("fraction of training tokens")
        ax.legend()
        save_figure(figure, path, dpi=150)
