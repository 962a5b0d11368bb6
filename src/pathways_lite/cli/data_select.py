"""`pathways-lite data select`: which documents to train on; `data apply` makes a store of what was selected."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Choose training documents: a selection file says which are kept, and in which domains.\n\n"
    "`pathways-lite data apply SELECTION OUT` makes a corpus of it, with other training documents and the same "
    "held-out ones. Try `random` beside every method: it is what a method has to beat.",
)

Corpus = Annotated[str, typer.Argument(help="a token store")]
Out = Annotated[Path, typer.Argument(help="the selection file, e.g. half.jsonl; a histogram goes beside it")]
Model = Annotated[Path, typer.Option("--model", help="run, stage or checkpoint that reads the documents")]
Keep = Annotated[float, typer.Option(min=0.0, max=1.0, help="share of the training tokens that is kept")]
Pooling = Annotated[
    Literal["mean", "position"],
    typer.Option(help="last hidden states are averaged evenly, or later positions count more"),
]
Distance = Annotated[Literal["cosine", "euclidean"], typer.Option(help="between embeddings")]
Seed = Annotated[int, typer.Option(help="the same seed gives the same selection")]
ByDomain = Annotated[
    float,
    typer.Option(
        min=0.0, max=1.0, help="of what a domain would keep if all were treated alike, it keeps at least this"
    ),
]


@app.command()
def prototypes(
    corpus: Corpus,
    out: Out,
    model: Model,
    keep: Keep = 0.5,
    which: Annotated[Literal["hard", "easy"], typer.Option(help="far from the prototypes, or near")] = "hard",
    k: Annotated[int, typer.Option(min=1, help="prototypes: clusters of k-means")] = 100,
    floor: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="of what a cluster would keep by an even share, it keeps at least this"),
    ] = 0.5,
    distance: Distance = "cosine",
    pooling: Pooling = "mean",
    seed: Seed = 0,
) -> None:
    """Keep documents that are far from the nearest of k prototypes, or near it (Sorscher et al. 2022).

    Hard ones, which are far, where data is abundant; easy ones where it is scarce. A cluster keeps at least half of its
    even share (`--floor`), so that no kind of text vanishes.

    Example: `pathways-lite data select prototypes corpora/python half.jsonl --model runs/demo --keep 0.5 --which hard`
    """
    from pathways_lite.cli.select_common import Reader, Selecting
    from pathways_lite.methods.selection.selectors import cluster
    from pathways_lite.methods.selection.selectors import select_fraction as keep_share

    selecting = Selecting(corpus, out)
    reader = Reader(model, corpus)
    found = cluster(reader.embeddings(pooling), k, distance, seed)
    part: Literal["top", "bottom"] = "top" if which == "hard" else "bottom"
    kept = keep_share(found.distance, selecting.documents.tokens, keep, part, found.cluster, floor)
    options = {"keep": keep, "which": which, "k": k, "floor": floor, "distance": distance, "pooling": pooling}
    selecting.finish("prototypes", options | {"seed": seed}, found.distance, selecting.own_domains(kept), reader)


@app.command()
def perplexity(
    corpus: Corpus,
    out: Out,
    model: Model,
    keep: Keep = 0.5,
    which: Annotated[Literal["bottom", "middle", "top"], typer.Option(help="part of the losses")] = "middle",
    floor: ByDomain = 0.0,
) -> None:
    """Keep documents of low, of middling or of high loss per token under a model (Marion et al. 2023).

    The model should not have been trained on these very documents, or what it remembers decides. Losses differ between
    languages and kinds of text: `--floor 1` selects from every domain by itself.

    Example: `pathways-lite data select perplexity corpora/python middle.jsonl --model runs/demo --keep 0.5 --floor 1`
    """
    from pathways_lite.cli.select_common import Reader, Selecting
    from pathways_lite.methods.selection.selectors import select_fraction as keep_share

    selecting = Selecting(corpus, out)
    reader, documents = Reader(model, corpus), selecting.documents
    losses = reader.losses()
    kept = keep_share(losses, documents.tokens, keep, which, documents.domain, floor)
    options = {"keep": keep, "which": which, "floor": floor}
    selecting.finish("perplexity", options, losses, selecting.own_domains(kept), reader)


@app.command()
def rds(
    corpus: Corpus,
    out: Out,
    model: Model,
    target: Annotated[
        list[str],
        typer.Option(help="text, JSONL or Parquet like what is wanted, or held-out:DOMAIN; may be given several times"),
    ],
    keep: Keep = 0.5,
    floor: ByDomain = 0.0,
    pooling: Pooling = "position",
) -> None:
    """Keep documents that a model finds like target documents, which take turns in choosing (RDS+, Ivison et al. 2025).

    Held-out documents that were targets are no fair test of what is trained on the selection: evaluate on others.

    Examples:

    - `pathways-lite data select rds corpora/all likely.jsonl --model runs/base --target questions.jsonl --keep 0.1`

    - `pathways-lite data select rds corpora/all math.jsonl --model runs/base --target held-out:math --keep 0.1`
    """
    from pathways_lite.cli.select_common import Reader, Selecting, target_documents
    from pathways_lite.methods.selection.selectors import prototype_scores
    from pathways_lite.methods.selection.selectors import select_fraction as keep_share

    selecting = Selecting(corpus, out)
    reader, documents = Reader(model, corpus), selecting.documents
    targets = target_documents(selecting.store, target)
    embeddings = reader.embeddings(pooling, targets)
    found = prototype_scores(embeddings[len(targets) :], embeddings[: len(targets)])
    kept = keep_share(found.turn, documents.tokens, keep, "bottom", documents.domain, floor)
    options = {"keep": keep, "target": target, "floor": floor, "pooling": pooling}
    selecting.finish("rds", options, found.similarity, selecting.own_domains(kept), reader)


@app.command()
def clusters(
    corpus: Corpus,
    out: Out,
    model: Model,
    k: Annotated[int, typer.Option(min=1, help="clusters of every domain")] = 8,
    distance: Distance = "cosine",
    pooling: Pooling = "mean",
    seed: Seed = 0,
) -> None:
    """Make domains of clusters, `novels` into `novels.0`, `novels.1` ..., for a mixture to weigh; nothing is left out.

    Example: `pathways-lite data select clusters corpora/python parts.jsonl --model runs/demo --k 4`
    """
    import numpy as np

    from pathways_lite.cli.select_common import Reader, Selecting
    from pathways_lite.methods.selection.selectors import cluster

    selecting = Selecting(corpus, out)
    reader, documents = Reader(model, corpus), selecting.documents
    embeddings = reader.embeddings(pooling)
    score, label = np.zeros(len(embeddings)), np.zeros(len(embeddings), int)
    for d in np.unique(documents.domain):
        here = documents.domain == d
        label[here], score[here] = cluster(embeddings[here], k, distance, seed)
    names = selecting.store.domains
    to = [f"{names[d]}.{c}" for d, c in zip(documents.domain, label, strict=True)]
    options = {"k": k, "distance": distance, "pooling": pooling, "seed": seed}
    selecting.finish("clusters", options, score, to, reader)


@app.command("near-duplicates")
def near_duplicates(
    corpus: Corpus,
    out: Out,
    threshold: Annotated[float, typer.Option(min=0.05, max=1.0, help="least Jaccard similarity of duplicates")] = 0.8,
    shingle: Annotated[int, typer.Option(min=1, help="characters that are compared as one")] = 9,
    permutations: Annotated[int, typer.Option(min=16, help="hash functions; more are more exact and slower")] = 128,
    held_out: Annotated[
        bool, typer.Option(help="training documents near a held-out one go as well: it would be known from training")
    ] = True,
    seed: Seed = 1,
) -> None:
    """Keep only the first of documents that are nearly the same, by MinHash and locality-sensitive hashing; no model.

    Case and white space do not count. All domains are compared with each other.

    Example: `pathways-lite data select near-duplicates corpora/python distinct.jsonl --threshold 0.8`
    """
    from pathways_lite.cli.common import count_progress
    from pathways_lite.cli.select_common import Selecting, texts
    from pathways_lite.data.store import Split
    from pathways_lite.methods.selection.near_duplicates import near_duplicates as find

    selecting = Selecting(corpus, out)
    store = selecting.store
    splits: tuple[Split, ...] = ("held_out", "train") if held_out else ("train",)
    total = sum(store.counts(domain, split).documents for domain in store.domains for split in splits)
    with count_progress("comparing", total, "documents") as done:
        before = texts(store, "held_out", done) if held_out else ()
        how = {"threshold": threshold, "shingle": shingle, "permutations": permutations}
        score = find(texts(store, "train", done), before=before, seed=seed, **how)  # type: ignore[arg-type]
    selecting.finish(
        "near-duplicates", how | {"held_out": held_out, "seed": seed}, score, selecting.own_domains(score == 0)
    )


@app.command()
def random(corpus: Corpus, out: Out, keep: Keep = 0.5, seed: Seed = 0) -> None:
    """Keep documents at random, the same share of every domain: what any other selection has to beat.

    Example: `pathways-lite data select random corpora/python random.jsonl --keep 0.5`
    """
    import numpy as np

    from pathways_lite.cli.select_common import Selecting
    from pathways_lite.keyed import derive_keys, uniform
    from pathways_lite.methods.selection.selectors import select_fraction as keep_share

    selecting = Selecting(corpus, out)
    documents = selecting.documents
    score = uniform(derive_keys("select", seed, np.arange(len(documents.tokens))), 0, np.zeros(1, int))
    kept = keep_share(score, documents.tokens, keep, "bottom", documents.domain, floor=1.0)
    selecting.finish("random", {"keep": keep, "seed": seed}, score, selecting.own_domains(kept))


def apply(
    selection: Annotated[Path, typer.Argument(help="what `pathways-lite data select` wrote")],
    out: Annotated[str, typer.Argument(help="where the new token store goes")],
    corpus: Annotated[str | None, typer.Option(help="the corpus selected from; default: where it was then")] = None,
) -> None:
    """Make a token store of a selection: the kept training documents in their new domains, and all held-out documents.

    Nothing is tokenised again. Recipes name the new store as their corpus, and its domains in their mixture.

    Example: `pathways-lite data apply half.jsonl corpora/half`
    """
    from rich.console import Console

    from pathways_lite.cli.common import count_progress
    from pathways_lite.data.inspect import describe
    from pathways_lite.data.selection import apply_selection, read_origin
    from pathways_lite.data.store import SPLITS, open_store

    store = open_store(corpus or read_origin(selection).corpus)
    total = sum(store.tokens(domain, split) for domain in store.domains for split in SPLITS)
    with count_progress("copying", total, "tokens") as done:
        made = apply_selection(selection, store, out, done=done)
    Console().print(describe(made, samples=0))
