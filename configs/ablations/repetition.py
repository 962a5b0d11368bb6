r"""Repetition of little data: its cost against fresh text, and how much of it dropout, throughout or late, recovers.

    zcat TRAIN.jsonl.gz | grep '"latvian"' | awk 'NR % 12 == 0' > few.jsonl
    zcat TRAIN.jsonl.gz | grep '"latvian"' | awk 'NR % 12 != 0' > rest.jsonl
    zcat TEST.jsonl.gz | grep '"latvian"' > test.jsonl
    pathways-lite data build corpora/repetition few=few.jsonl rest=rest.jsonl --held-out test=test.jsonl \
        --tokenizer sentencepiece:2048
    pathways-lite study run configs/ablations/repetition.py
    pathways-lite study report configs/ablations/repetition.py

Cost: 27 TFLOPs, 18 runs of 1.5.

Expected result: repetition costs 1.29 nats; dropout of 20 % recovers 0.50 throughout and 0.37 in the second half
(docs/results/repetition.md). Xue et al. 2023 (arXiv 2305.13230) report late dropout as good as dropout throughout.

Any text works of which a twelfth is a domain `few` and the rest a domain `rest`. Two arms read all of it, a little less
than once or in rounds of a fresh random quarter (RS2, Okanovic et al. 2023, arXiv 2305.18424); the others repeat `few`.
"""

from pathways_lite.recipe import (
    WSD,
    AdamW,
    Continue,
    Data,
    DataMixture,
    Evaluation,
    Fraction,
    GivenWeights,
    MixturePhase,
    Model,
    Recipe,
    Saving,
    Stage,
)
from pathways_lite.studies import Study

SEEDS = (0, 1, 2)
MODEL = Model(
    d_model=128, n_layers=4, n_heads=4, head_dim=32, d_ff=512, vocab_size=2048, dtype="float32", scan_layers=False
)
FEW = {"mixture": DataMixture(phases=(MixturePhase(weights=GivenWeights(weights={"few": 1})),))}
ARMS = {
    "fresh": ({}, 0.0),
    "rounds_of_a_quarter": ({"rs2_fraction": 0.25}, 0.0),
    "repeated": (FEW, 0.0),
    "repeated_dropout_10": (FEW, 0.1),
    "repeated_dropout_20": (FEW, 0.2),
}


def stage(seed: int, data_fields: dict, dropout: float, schedule: WSD, flops: float, **fields: object) -> Stage:
    return Stage(
        model=MODEL.model_copy(update={"dropout": dropout}),
        data=Data(corpus="corpora/repetition", seq_len=128, shuffle_seed=seed, **data_fields),
        optimizer=AdamW(learning_rate=4e-3, schedule=schedule),
        batch_size=8,
        budget=f"{flops:g} flops",
        evaluation=Evaluation(every=50, tokens=24_000),
        saving=Saving(every=100, keep=1),
        log_every=5,
        **fields,
    )


def recipe(arm: str, seed: int) -> Recipe:
    data_fields, dropout = ARMS[arm]
    whole = stage(seed, data_fields, dropout, WSD(warmup=Fraction(n=0.05), decay=Fraction(n=0.4)), 1.5e12)
    return Recipe(name=f"{arm}_{seed}", seed=seed, stages=(whole,))


def late_dropout_recipe(seed: int) -> Recipe:
    """Build two stages with the same learning rates as one; the second has dropout."""
    first = stage(seed, FEW, 0.0, WSD(warmup=Fraction(n=0.1), decay=Fraction(n=0.0)), 0.75e12, name="dry")
    decaying = WSD(warmup=Fraction(n=0.0), decay=Fraction(n=0.8))
    second = stage(seed, FEW, 0.2, decaying, 0.75e12, name="dropout", start=Continue(optimizer="keep"))
    return Recipe(name=f"repeated_late_dropout_20_{seed}", seed=seed, stages=(first, second))


def study() -> Study:
    arms = {arm: tuple(recipe(arm, seed) for seed in SEEDS) for arm in ARMS}
    return Study(
        name="repetition",
        question="When little text is repeated, how much is lost, and does dropout recover it?",
        arms={**arms, "repeated_late_dropout_20": tuple(late_dropout_recipe(seed) for seed in SEEDS)},
        baseline="repeated",
    )
