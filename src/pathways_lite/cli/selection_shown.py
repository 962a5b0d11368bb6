"""How a selection looks: on a terminal, and as a histogram."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pathways_lite.data.inspect import sample
from pathways_lite.data.selection import Selection, TrainingDocuments
from pathways_lite.data.store import Store
from pathways_lite.tracking.numbers import duration, si

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
    goes_to = np.array([to or name for to, name in zip(selection.to, own.tolist(), strict=True)])
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
        document = sample(store, store.domains[documents.domain[i]], int(documents.number[i]), _CHARACTERS)
        text = Text(" ".join(document.text.split()), overflow="ellipsis", no_wrap=True)
        where = Text(selection.to[i] or "left out")
        table.add_row(f"{selection.score[i]:.4g}", where, Text(f"{document.domain} {document.id}"), text)
    return table


def draw(selection: Selection, documents: TrainingDocuments, path: Path) -> None:
    """A histogram of the scores as PNG, weighted by tokens: what is kept, and what is left out."""
    from matplotlib.figure import Figure

    from pathways_lite.tracking.drawing import style

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
