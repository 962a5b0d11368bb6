r"""Upsampling at the end: ten times as much mathematics in the last 5, 10, 20 or 30 % of the budget.

    pathways-lite data build corpora/novels_math novels=NOVELS.jsonl.gz math=MATH.jsonl.gz --held-out 0.02 \
        --tokenizer sentencepiece:4096
    pathways-lite study run configs/ablations/upsampling.py
    pathways-lite study report configs/ablations/upsampling.py

Cost: 30 TFLOPs, 15 runs of 2.

Expected result: the longer, the better for mathematics: 0.18 nats at 20 %, 0.30 at 30 %; novels lose a sixth of that
(docs/results/mixtures.md). Blakeney et al. 2024 (arXiv 2406.03476) found 10 to 20 % best, for 7B parameters on 1T
tokens.

Any corpus with a small domain `math` works.
"""

from pathways_lite.recipe import (
    WSD,
    AdamW,
    Data,
    DataMixture,
    Evaluation,
    Fraction,
    Model,
    Recipe,
    Saving,
    Stage,
    upsampling,
)
from pathways_lite.studies import Study

SEEDS = (0, 1, 2)
MODEL = Model(
    d_model=128, n_layers=4, n_heads=4, head_dim=32, d_ff=512, vocab_size=4096, dtype="float32", scan_layers=False
)
ARMS = {"as_it_is": DataMixture()} | {
    f"last_{percent}": upsampling({"math": 10}, last=percent / 100) for percent in (5, 10, 20, 30)
}


def recipe(arm: str, seed: int) -> Recipe:
    stage = Stage(
        model=MODEL,
        data=Data(corpus="corpora/novels_math", seq_len=128, shuffle_seed=seed, mixture=ARMS[arm]),
        optimizer=AdamW(learning_rate=4e-3, schedule=WSD(warmup=Fraction(n=0.05), decay=Fraction(n=0.4))),
        batch_size=8,
        budget="2e12 flops",
        evaluation=Evaluation(every=50, tokens=10_000),
        saving=Saving(every=100, keep=1),
        log_every=5,
    )
    return Recipe(name=f"{arm}_{seed}", seed=seed, stages=(stage,))


def study() -> Study:
    return Study(
        name="upsampling",
        question="At equal FLOPs, for how long should a small domain be read more often at the end?",
        arms={arm: tuple(recipe(arm, seed) for seed in SEEDS) for arm in ARMS},
        baseline="as_it_is",
    )
