r"""Selection of documents towards a target, at equal training tokens: similarity, loss, duplicates, clusters, chance.

    python tools/shaped_text.py corpora/pool.jsonl pool=copies:2M pool=code:2.5M pool=prose:0.7M pool=templates:1.5M \
        pool=noise:0.8M --piece 2000
    python tools/shaped_text.py corpora/pool_target.jsonl target=prose:40K --after corpora/pool.jsonl --piece 2000
    python tools/shaped_text.py corpora/pool_held_out.jsonl target=prose:400K \
        --after corpora/pool.jsonl corpora/pool_target.jsonl
    pathways-lite data build corpora/pool corpora/pool.jsonl --held-out corpora/pool_held_out.jsonl --tokenizer bytes
    pathways-lite train configs/selection_scorer.py
    select() { method=$1 name=$2; shift 2; pathways-lite data select $method corpora/pool corpora/$name.jsonl "$@" &&
        pathways-lite data apply corpora/$name.jsonl corpora/$name; }
    M="--model runs/selection_scorer"
    select random pool_random --keep 0.2
    select rds pool_rds $M --target corpora/pool_target.jsonl --keep 0.2
    select perplexity pool_middle $M --which middle --keep 0.2
    select perplexity pool_bottom $M --which bottom --keep 0.2
    select near-duplicates pool_distinct --threshold 0.5
    select clusters pool_clusters $M --k 8
    pathways-lite study run configs/ablations/selection.py --jobs 2
    pathways-lite study evaluate configs/ablations/selection.py --tokens 400000
    pathways-lite study report configs/ablations/selection.py

Cost: 75 TFLOPs, 35 runs of 2.2 in 87k parameters, 35 bytes per parameter. At the 15 GFLOP/s of a core
that others used too, 2.4 minutes a run. To read the pool with the scorer, 1.8 TFLOPs
per method, is not counted in an arm.

Expected result: not measured yet.

The pool has one domain: code and near-copies of it, 9 % prose (docstrings), templates, noise. The target is prose: 40
kB of it are given to RDS+, other 400 kB are held out. All arms read 3 MB; those that keep a fifth read it twice.

Criterion, fixed beforehand; Student's t at 95 % over five paired seeds, Holm over the arms, and the same sign by the
interval over held-out documents. Against `random`: RDS+ (Ivison et al. 2025, arXiv 2503.01807) holds if `rds` ends
lower; perplexity (Marion et al. 2023, arXiv 2309.04564) if `middle` does, and ends below `bottom`; clusters in equal
parts if `clusters` does. Near-duplicates hold if `distinct` ends below `everything`.
"""

from pathways_lite import recipe as r
from pathways_lite.studies import Study

SEEDS = (0, 1, 2, 3, 4)
MODEL = r.Model(
    d_model=64, n_layers=2, n_heads=4, head_dim=16, d_ff=128, vocab_size=264, dtype="float32", init="normal"
)
EVEN = r.DataMixture(phases=(r.MixturePhase(weights=r.Temperature(tau=1e9)),))
ARMS = {  # the corpus of each
    "random": "pool_random",
    "everything": "pool",
    "rds": "pool_rds",
    "middle": "pool_middle",
    "bottom": "pool_bottom",
    "distinct": "pool_distinct",
    "clusters": "pool_clusters",
}


def recipe(arm: str, seed: int) -> r.Recipe:
    mixture = EVEN if arm == "clusters" else None
    stage = r.Stage(
        name="base",
        model=MODEL,
        data=r.Data(corpus=f"corpora/{ARMS[arm]}", seq_len=128, shuffle_seed=seed, mixture=mixture),
        optimizer=r.AdamW(learning_rate=8e-3, schedule=r.WSD(warmup=r.Fraction(n=0.03), decay=r.Fraction(n=0.3))),
        batch_size=32,
        budget="3e6 tokens",
        evaluation=r.Evaluation(every=200, tokens=100_000),
        saving=r.Saving(every=400, keep=1),
        log_every=10,
    )
    return r.Recipe(name=f"{arm}_{seed}", seed=seed, stages=(stage,))


def study() -> Study:
    return Study(
        name="selection",
        question="At equal training tokens, which selection from a pool ends lowest on a target, and below chance?",
        arms={arm: tuple(recipe(arm, seed) for seed in SEEDS) for arm in ARMS},
        baseline="random",
    )
