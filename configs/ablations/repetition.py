"""Repeating little data: many epochs with and without dropout, and rounds of fresh random quarters (RS2).

    pathways-lite data build corpora/languages LANGUAGES.jsonl.gz --tokenizer sentencepiece:4096 --held-out 0.1
    pathways-lite study run configs/ablations/repetition.py
    pathways-lite study report configs/ablations/repetition.py

In the first three arms one language of the corpus, of 60 kB, is all there is to read; the last one, for comparison,
reads rounds of a quarter of all. 3 seeds of 2.5 TFLOPs. Xue et al. 2023 (arXiv 2305.13230) lead to expect that dropout
helps where data repeats; of RS2 see Okanovic et al. 2023 (arXiv 2305.18424).
"""

from pathways_lite.recipe import (
    WSD,
    AdamW,
    Data,
    DataMixture,
    Evaluation,
    Fraction,
    Given,
    MixturePhase,
    Model,
    Recipe,
    Saving,
    Stage,
)
from pathways_lite.studies import Study

SEEDS = (0, 1, 2)
MODEL = Model(d_model=128, n_layers=4, n_heads=4, head_dim=32, d_ff=512, vocab_size=4096, dtype="float32")
LITTLE = {"mixture": DataMixture(phases=(MixturePhase(weights=Given(weights={"basque": 1})),))}
ARMS = {
    "repeated": (0.0, LITTLE),
    "repeated_dropout_10": (0.1, LITTLE),
    "repeated_dropout_20": (0.2, LITTLE),
    "rounds_of_a_quarter": (0.0, {"round": 0.25}),
}


def recipe(arm: str, seed: int) -> Recipe:
    dropout, reading = ARMS[arm]
    stage = Stage(
        model=MODEL.model_copy(update={"dropout": dropout}),
        data=Data(corpus="corpora/languages", seq_len=128, shuffle_seed=seed, **reading),
        optimizer=AdamW(learning_rate=4e-3, schedule=WSD(warmup=Fraction(n=0.05), decay=Fraction(n=0.4))),
        batch_size=8,
        budget="2.5e12 flops",
        evaluation=Evaluation(every=50, tokens=4_000),
        saving=Saving(every=100, keep=1),
        log_every=5,
    )
    return Recipe(name=f"{arm}_{seed}", seed=seed, stages=(stage,))


def study() -> Study:
    return Study(
        name="repetition",
        question="When little text is read again and again, does dropout help?",
        arms={arm: tuple(recipe(arm, seed) for seed in SEEDS) for arm in ARMS},
        baseline="repeated",
    )
