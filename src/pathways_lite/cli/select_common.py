"""What the methods of `pathways-lite data select` have in common: a corpus, a model that reads it, and the end."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pathways_lite.cli.common import count_progress
from pathways_lite.data.documents import Skipped
from pathways_lite.data.inspect import sample_document
from pathways_lite.data.selection import Origin, Selection, TrainingDocuments, require_directory, training_documents
from pathways_lite.data.sources import Source
from pathways_lite.data.store import Split, Store, open_store
from pathways_lite.errors import UserError
from pathways_lite.tracking.formatting import duration, si

if TYPE_CHECKING:
    from pathways_lite.evaluation.document_scores import Pooling

HELD_OUT = "held-out:"


class Reader:
    """A checkpoint that reads the documents of a corpus."""

    def __init__(self, path: Path, corpus: str) -> None:
        from pathways_lite.training.load import load_model

        self._loaded = load_model(path)
        self._evaluator = self._loaded.evaluator(corpus)
        self._tokens = 0

    @cached_property
    def _params(self) -> Any:
        return self._loaded.params()

    def embeddings(self, pooling: Pooling, first: Sequence[np.ndarray] = ()) -> np.ndarray:
        """Of the documents `first`, then of all training documents; float32 [n, E]."""
        from pathways_lite.evaluation.document_scores import embeddings

        with count_progress("reading", len(first) + self._stored, "documents") as done:
            return embeddings(self._evaluator, self._params, self._documents(first), pooling, done=done)

    def losses(self) -> np.ndarray:
        """Nats per token of all training documents, float32 [n]."""
        from pathways_lite.evaluation.document_scores import mean_losses

        with count_progress("reading", self._stored, "documents") as done:
            return mean_losses(self._evaluator, self._params, self._documents(), done=done)

    @property
    def _stored(self) -> int:
        store = self._evaluator.store
        return sum(store.counts(domain).documents for domain in store.domains)

    def _documents(self, first: Sequence[np.ndarray] = ()) -> Iterator[np.ndarray]:
        """Those `first` and all training documents; their tokens are counted as they are read."""
        store = self._evaluator.store
        for document in itertools.chain(first, *(store.documents(domain) for domain in store.domains)):
            self._tokens += len(document)
            yield document

    def to_json(self) -> dict[str, Any]:
        """Which checkpoint, and what reading has cost until now, in model FLOPs."""
        from pathways_lite.evaluation.document_scores import forward_flops

        flops = forward_flops(self._loaded.stage, self._tokens)
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

        pass

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
            items = (item for piece in Source.parse(target).chunks() for item in piece.read())
            contents = [item.text for item in items if not isinstance(item, Skipped)]
            encoded = store.tokenizer().encode_batch(contents)
            some = [np.concatenate([[store.eod], ids]).astype(np.int32) for ids in encoded]
        if not some:
            raise UserError(f"--target {target}: there is not one document in it")
        found += some
    return found


# How a selection looks: on a terminal, and as a histogram.


_SCORES = {
    "prototypes": "distance from the nearest prototype",
    "clusters": "distance from the centre of the cluster",
    "perplexity": "nats per token",
    "rds": "cosine with the most similar target",
    "near-duplicates": "similarity with an earlier document",
    "random": "random number",
}
_EXAMPLES, _CHARACTERS = 3, 100
_BINS = 60


def shown(selection: Selection, store: Store, documents: TrainingDocuments, seconds: float) -> RenderableType:
    """What is kept of every domain, the scores, what the lowest and the highest look like, and what it cost."""
    origin, n = selection.origin, len(documents.tokens)
    facts = [
        f"{n:,} documents, {documents.tokens.sum():,} tokens in {duration(seconds)}: {n / seconds:,.0f} documents/s"
    ]
    if origin.model is not None:
        facts.append(
            f"asked {origin.model['path']}: {si(origin.model['flops'], 'FLOPs')}, to be counted when comparing"
        )
    return Group(_domains(selection, store, documents), _extremes(selection, store, documents), *map(Text, facts))


def _domains(selection: Selection, store: Store, documents: TrainingDocuments) -> Table:
    """A line per domain; where documents go to other domains than their own, a line per such domain."""
    table = Table("domain", title=f"kept by {selection.origin.method}", title_justify="left")
    for heading in ("documents", "tokens", "share", "5 %", "score", "95 %"):
        table.add_column(heading, justify="right")
    own = np.array(store.domains)[documents.domain]
    goes_to = np.array([to or name for to, name in zip(selection.destinations, own.tolist(), strict=True)])
    for name in np.unique(goes_to):
        here = goes_to == name
        kept = here & selection.kept
        tokens, before = documents.tokens[kept].sum(), documents.tokens[np.isin(own, own[here])].sum()
        quantiles = (f"{q:.3g}" for q in np.quantile(selection.score[here], [0.05, 0.5, 0.95]))
        table.add_row(Text(name), f"{kept.sum():,}", f"{tokens:,}", f"{tokens / before:.1%}", *quantiles)
    return table


def _extremes(selection: Selection, store: Store, documents: TrainingDocuments) -> Table:
    table = Table("score", "goes to", "document", "begins with", title_justify="left")
    table.title = f"lowest and highest: {_SCORES.get(selection.origin.method, 'score')}"
    order = np.argsort(selection.score, kind="stable")
    chosen = [*order[:_EXAMPLES], *order[_EXAMPLES:][-_EXAMPLES:]]
    for i in chosen:
        document = sample_document(store, store.domains[documents.domain[i]], int(documents.number[i]), _CHARACTERS)
        text = Text(" ".join(document.text.split()), overflow="ellipsis", no_wrap=True)
        where = Text(selection.destinations[i] or "left out")
        table.add_row(f"{selection.score[i]:.4g}", where, Text(f"{document.domain} {document.id}"), text)
    return table


def draw(selection: Selection, documents: TrainingDocuments, path: Path) -> None:
    """A histogram of the scores as PNG, weighted by tokens: what is kept, and what is left out."""
    from matplotlib.figure import Figure

    from pathways_lite.tracking.plot_style import style

    kept = selection.kept
    with style("light") as palette:
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        ax = figure.subplots()
        edges = np.histogram_bin_edges(selection.score, _BINS)
        parts = [(~kept, "left out", palette.grid), (kept, "kept", palette.series[0])]
        bottom = np.zeros(_BINS)
        for mine, label, colour in parts:
            tokens = np.histogram(selection.score[mine], edges, weights=documents.tokens[mine])[0]
            share = tokens / documents.tokens.sum()
            ax.bar(edges[:-1], share, np.diff(edges), bottom, align="edge", color=colour, label=label)
            bottom += share
        if selection.origin.method == "near-duplicates":  # nearly all are at 0
            ax.set_yscale("log")
        ax.set_xlabel(_SCORES.get(selection.origin.method, "score"))
        ax.set_ylabel("share of training tokens")
        ax.legend()
        figure.savefig(path, dpi=150)
