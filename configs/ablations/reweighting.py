"""Does weighing rows by their losses pay? Five rules against uniform weights, on text of unequal languages.

    pathways-lite data build corpora/languages TRAIN.jsonl.gz --held-out TEST.jsonl.gz --tokenizer sentencepiece:4096
    pathways-lite study run configs/ablations/reweighting.py
    pathways-lite study report configs/ablations/reweighting.py

Any corpus of several domains does. 6 arms of 3 seeds of 2 TFLOPs, 18 runs: about half an hour on two idle
CPU cores. Sow et al. 2025 (arXiv 2502.06733) lead to expect: LinUpper below uniform, and by more the larger the model;
of the sizes here the paper has none. An arm that trains on half of each batch alone spends its FLOPs on more batches.
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
        question="At equal FLOPs, which weights of rows end below uniform ones?",
        arms={arm: tuple(recipe(arm, seed) for seed in SEEDS) for arm in ARMS},
        baseline="uniform",
    )
