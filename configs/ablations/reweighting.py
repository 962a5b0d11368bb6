"""Reweighting of rows by loss: five rules against uniform weights, on text of unequal languages.

    pathways-lite data build corpora/languages TRAIN.jsonl.gz --held-out TEST.jsonl.gz --tokenizer sentencepiece:4096
    pathways-lite study run configs/ablations/reweighting.py
    pathways-lite study report configs/ablations/reweighting.py

Cost: 36 TFLOPs, 18 runs of 2; about half an hour on 2 idle CPU cores.

Expected result: no rule ends below uniform weights; Focal equals them, LinUpper is 0.21 nats above
(docs/results/reweighting.md, which also has a variant on bytes where Extremes gains). Sow et al. 2025 (arXiv
2502.06733) report LinUpper below uniform, by more for larger models, at sizes from 124M parameters.

Any corpus of several domains works. The arm that trains on half of each batch spends its FLOPs on more batches.
"""

from pathways_lite.recipe import (
    WSD,
    AdamW,
    Data,
    Evaluation,
    Extremes,
    Focal,
    Fraction,
    LinUpper,
    Model,
    Quadratic,
    Recipe,
    Reweighting,
    Saving,
    Stage,
    TopLosses,
    Uniform,
)
from pathways_lite.studies import Study

SEEDS = (0, 1, 2)
MODEL = Model(
    d_model=128, n_layers=4, n_heads=4, head_dim=32, d_ff=512, vocab_size=4096, dtype="float32", scan_layers=False
)
ARMS = {
    "uniform": Uniform(),
    "lin_upper": LinUpper(),
    "quadratic": Quadratic(),
    "extremes": Extremes(),
    "focal": Focal(),
    "top_half": TopLosses(fraction=0.5),
}


def recipe(arm: str, seed: int) -> Recipe:
    stage = Stage(
        model=MODEL,
        data=Data(corpus="corpora/languages", seq_len=128, shuffle_seed=seed),
        optimizer=AdamW(learning_rate=4e-3, schedule=WSD(warmup=Fraction(n=0.05), decay=Fraction(n=0.4))),
        batch_size=8,
        budget="2e12 flops",
        reweighting=Reweighting(rule=ARMS[arm]),
        evaluation=Evaluation(every=50, tokens=4_000),
        saving=Saving(every=100, keep=1),
        log_every=5,
    )
    return Recipe(name=f"{arm}_{seed}", seed=seed, stages=(stage,))


def study() -> Study:
    return Study(
        name="reweighting",
        question="At equal FLOPs, which weights of rows end below uniform weights?",
        arms={arm: tuple(recipe(arm, seed) for seed in SEEDS) for arm in ARMS},
        baseline="uniform",
    )
