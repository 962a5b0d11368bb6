"""`pathways-lite data select`: choose training documents; `data apply` builds a store of the selection."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from pathways_lite.cli.common import AsJson, print_json
from pathways_lite.paths import local_path

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Choose training documents. The selection file lists the documents to keep, and their domains.\n\n"
    "`pathways-lite data apply SELECTION OUT` then builds a corpus of these training documents, with the same held-out "
    "documents. Compare every method with `random`: it is the baseline to beat.\n\n"
    "Example: `pathways-lite data select near-duplicates corpora/python distinct.jsonl`, then "
    "`pathways-lite data apply distinct.jsonl corpora/distinct`.",
)

Corpus = Annotated[str, typer.Argument(help="a token store")]
Out = Annotated[
    Path,
    typer.Argument(
        parser=local_path, help="the selection file to write, e.g. half.jsonl; a histogram is written beside it"
    ),
]
Model = Annotated[
    Path, typer.Option("--model", parser=local_path, help="run, stage or checkpoint whose model reads the documents")
]
Keep = Annotated[float, typer.Option(min=0.0, max=1.0, help="fraction of the training tokens to keep")]
Pooling = Annotated[
    Literal["mean", "position"],
    typer.Option(help="average the last hidden states with equal weights, or with larger weights at later positions"),
]
Distance = Annotated[Literal["cosine", "euclidean"], typer.Option(help="distance between embeddings")]
Seed = Annotated[int, typer.Option(help="random seed; the same seed gives the same selection")]
ByDomain = Annotated[
    float,
    typer.Option(
        min=0.0,
        max=1.0,
        help="minimum for each domain, as a fraction of the tokens it would keep if all were treated alike",
    ),
]


@app.command()
def prototypes(
    corpus: Corpus,
    out: Out,
    model: Model,
    keep: Keep = 0.5,
    which: Annotated[
        Literal["hard", "easy"], typer.Option(help="keep documents far from the prototypes, or near them")
    ] = "hard",
    k: Annotated[int, typer.Option(min=1, help="number of prototypes (k-means clusters)")] = 100,
    floor: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="minimum for each cluster, as a fraction of its even share"),
    ] = 0.5,
    distance: Distance = "cosine",
    pooling: Pooling = "mean",
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Keep documents that are far from the nearest of k prototypes, or near it (Sorscher et al. 2022).

    Keep hard documents, the far ones, if data is abundant; easy ones if it is scarce. A cluster keeps at least half of
    its even share (`--floor`), so that no kind of text disappears.

    Example: `pathways-lite data select prototypes corpora/python half.jsonl --model runs/demo --keep 0.5 --which hard`
    """
    from pathways_lite.cli.select_common import CorpusReader, SelectionBuilder
    from pathways_lite.methods.selection.selectors import cluster, require_k_means, select_fraction

    require_k_means()
    builder = SelectionBuilder(corpus, out, as_json, keep=keep)
    reader = CorpusReader(model, corpus)
    clustering = cluster(reader.embeddings(pooling), k, distance, seed)
    end: Literal["top", "bottom"] = "top" if which == "hard" else "bottom"
    kept = select_fraction(clustering.distance, builder.documents.tokens, keep, end, clustering.cluster, floor)
    options = {"keep": keep, "which": which, "k": k, "floor": floor, "distance": distance, "pooling": pooling}
    builder.finish("prototypes", options | {"seed": seed}, clustering.distance, builder.own_domains(kept), reader)


@app.command()
def perplexity(
    corpus: Corpus,
    out: Out,
    model: Model,
    keep: Keep = 0.5,
    which: Annotated[
        Literal["bottom", "middle", "top"],
        typer.Option(help="which losses to keep: the lowest, those around the median, or the highest"),
    ] = "middle",
    floor: ByDomain = 0.0,
    as_json: AsJson = False,
) -> None:
    """Keep documents with a low, medium or high loss per token under a model (Marion et al. 2023).

    The model should not have been trained on these documents, or memorization decides. Losses differ between languages
    and kinds of text: `--floor 1` selects from every domain separately.

    Example: `pathways-lite data select perplexity corpora/python middle.jsonl --model runs/demo --keep 0.5 --floor 1`
    """
    from pathways_lite.cli.select_common import CorpusReader, SelectionBuilder
    from pathways_lite.methods.selection.selectors import select_fraction

    builder = SelectionBuilder(corpus, out, as_json, keep=keep)
    reader, documents = CorpusReader(model, corpus), builder.documents
    losses = reader.losses()
    kept = select_fraction(losses, documents.tokens, keep, which, documents.domain, floor)
    options = {"keep": keep, "which": which, "floor": floor}
    builder.finish("perplexity", options, losses, builder.own_domains(kept), reader)


@app.command()
def rds(
    corpus: Corpus,
    out: Out,
    model: Model,
    target: Annotated[
        list[str],
        typer.Option(help="text, JSONL or Parquet similar to the documents wanted, or held-out:DOMAIN; repeatable"),
    ],
    keep: Keep = 0.5,
    floor: ByDomain = 0.0,
    pooling: Pooling = "position",
    as_json: AsJson = False,
) -> None:
    """Keep documents most similar to target documents, which take turns choosing (RDS+, Ivison et al. 2025).

    Similarity is that of a model's embeddings. The documents of one `--target` take turns; several targets take turns
    instead, so that each chooses as much, however many documents it has. Do not evaluate on held-out documents that
    were targets: they are no fair test of a model trained on the selection.

    Examples:

    - `pathways-lite data select rds corpora/all likely.jsonl --model runs/base --target questions.jsonl --keep 0.1`

    - `pathways-lite data select rds corpora/all math.jsonl --model runs/base --target held-out:math --keep 0.1`
    """
    from pathways_lite.cli.select_common import CorpusReader, SelectionBuilder, target_documents
    from pathways_lite.methods.selection.selectors import prototype_scores, select_fraction

    builder = SelectionBuilder(corpus, out, as_json, keep=keep)
    reader, documents = CorpusReader(model, corpus), builder.documents
    targets, tasks = target_documents(builder.store, target)
    embeddings = reader.embeddings(pooling, targets)
    scores = prototype_scores(embeddings[len(targets) :], embeddings[: len(targets)], tasks)
    kept = select_fraction(scores.turn, documents.tokens, keep, "bottom", documents.domain, floor)
    options = {"keep": keep, "target": target, "floor": floor, "pooling": pooling}
    builder.finish("rds", options, scores.similarity, builder.own_domains(kept), reader)


@app.command()
def clusters(
    corpus: Corpus,
    out: Out,
    model: Model,
    k: Annotated[int, typer.Option(min=1, help="number of clusters of every domain")] = 8,
    distance: Distance = "cosine",
    pooling: Pooling = "mean",
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Split domains into clusters for a mixture to weight: `novels` into `novels.0`, `novels.1` ...; keeps everything.

    Example: `pathways-lite data select clusters corpora/python parts.jsonl --model runs/demo --k 4`
    """
    import numpy as np

    from pathways_lite.cli.select_common import CorpusReader, SelectionBuilder
    from pathways_lite.methods.selection.selectors import cluster, require_k_means

    require_k_means()
    builder = SelectionBuilder(corpus, out, as_json)
    reader, documents = CorpusReader(model, corpus), builder.documents
    embeddings = reader.embeddings(pooling)
    score, label = np.zeros(len(embeddings)), np.zeros(len(embeddings), int)
    for d in np.unique(documents.domain):
        in_domain = documents.domain == d
        label[in_domain], score[in_domain] = cluster(embeddings[in_domain], k, distance, seed)
    names = builder.store.domains
    new_domains = [f"{names[d]}.{c}" for d, c in zip(documents.domain, label, strict=True)]
    options = {"k": k, "distance": distance, "pooling": pooling, "seed": seed}
    builder.finish("clusters", options, score, new_domains, reader)


@app.command("near-duplicates")
def near_duplicates(
    corpus: Corpus,
    out: Out,
    threshold: Annotated[float, typer.Option(min=0.05, max=1.0, help="minimum Jaccard similarity of duplicates")] = 0.8,
    shingle: Annotated[int, typer.Option(min=1, help="characters per shingle, the unit of comparison")] = 9,
    permutations: Annotated[
        int, typer.Option(min=16, help="number of hash functions; more are more accurate and slower")
    ] = 128,
    held_out: Annotated[
        bool, typer.Option(help="also remove training documents that, as wholes, are near duplicates of held-out ones")
    ] = True,
    seed: Seed = 1,
    as_json: AsJson = False,
) -> None:
    """Keep only the first of near-duplicate documents, by MinHash and locality-sensitive hashing; needs no model.

    Case and whitespace are ignored. All domains are compared with each other. Documents are compared as wholes, so this
    does not decontaminate: a held-out text inside a longer training document is not found.

    Example: `pathways-lite data select near-duplicates corpora/python distinct.jsonl --threshold 0.8`
    """
    from pathways_lite.cli.common import count_progress
    from pathways_lite.cli.select_common import SelectionBuilder, decoded_texts
    from pathways_lite.data.store import Split
    from pathways_lite.methods.selection.near_duplicates import near_duplicates as near_duplicate_scores

    builder = SelectionBuilder(corpus, out, as_json)
    store = builder.store
    splits: tuple[Split, ...] = ("held_out", "train") if held_out else ("train",)
    total = sum(store.counts(domain, split).documents for domain in store.domains for split in splits)
    with count_progress("comparing", total, "documents") as done:
        before = decoded_texts(store, "held_out", done) if held_out else ()
        settings = {"threshold": threshold, "shingle": shingle, "permutations": permutations}
        score = near_duplicate_scores(decoded_texts(store, "train", done), before=before, seed=seed, **settings)  # type: ignore[arg-type]
    builder.finish(
        "near-duplicates", settings | {"held_out": held_out, "seed": seed}, score, builder.own_domains(score == 0)
    )


@app.command()
def random(corpus: Corpus, out: Out, keep: Keep = 0.5, seed: Seed = 0, as_json: AsJson = False) -> None:
    """Keep documents at random, the same fraction of every domain: the baseline for every other method.

    Example: `pathways-lite data select random corpora/python random.jsonl --keep 0.5`
    """
    import numpy as np

    from pathways_lite.cli.select_common import SelectionBuilder
    from pathways_lite.keyed import derive_keys, uniform
    from pathways_lite.methods.selection.selectors import select_fraction

    builder = SelectionBuilder(corpus, out, as_json, keep=keep)
    documents = builder.documents
    score = uniform(derive_keys("select", seed, np.arange(len(documents.tokens))), 0, np.zeros(1, int))
    kept = select_fraction(score, documents.tokens, keep, "bottom", documents.domain, floor=1.0)
    builder.finish("random", {"keep": keep, "seed": seed}, score, builder.own_domains(kept))


def apply(
    selection: Annotated[
        Path, typer.Argument(parser=local_path, help="a selection file written by `pathways-lite data select`")
    ],
    out: Annotated[str, typer.Argument(help="the new token store")],
    corpus: Annotated[
        str | None, typer.Option(help="the corpus that was selected from; default: its former address")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Build a token store of a selection: the kept training documents in their new domains, and all held-out documents.

    Nothing is tokenized again. Recipes name the new store as their corpus, and its domains in their mixture.

    Example: `pathways-lite data apply half.jsonl corpora/half`
    """
    from pathways_lite.cli.common import count_progress
    from pathways_lite.console import Console
    from pathways_lite.data.inspect import describe
    from pathways_lite.data.selection import apply_selection, read_origin
    from pathways_lite.data.store import SPLITS, open_store

    store = open_store(corpus or read_origin(selection).corpus)
    total = sum(store.tokens(domain, split) for domain in store.domains for split in SPLITS)
    with count_progress("copying", total, "tokens") as done:
        new_store = apply_selection(selection, store, out, done=done)
    description = describe(new_store, samples=0)
    if as_json:
        print_json(asdict(description))
    else:
        Console().print(description)
