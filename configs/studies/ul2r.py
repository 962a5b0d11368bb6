"""A little UL2R after causal training: 2 % and 10 % more compute with it, against as many more causal steps.

    pathways-lite data build corpora/python python: --tokenizer sentencepiece:4096 --held-out 0.03
    pathways-lite study run configs/studies/ul2r.py --jobs 2
    pathways-lite study report configs/studies/ul2r.py
    pathways-lite evaluate runs/ul2r/RUN --infilling         # of each run, and of its base/

Cost: 81 TFLOPs, 12 runs that share 3 bases of 1000 causal steps of 2048 tokens (1.5M parameters).

Expected result: causal loss is 0.04 nats higher than after as many causal steps, and infilling does not appear
(docs/results/ul2r.md).

The report compares causal held-out loss, which UL2R should hold (Tay et al. 2022, arXiv 2210.11399). What UL2R is for,
filling gaps, is measured by `evaluate`; the logs have each denoiser's own loss. The stages continue at the learning
rate at which the base ends.
"""

from pathways_lite.recipe import (
    UL2R,
    AdamW,
    Causal,
    Constant,
    Continue,
    Cosine,
    Data,
    Evaluation,
    Fraction,
    Model,
    Recipe,
    Saving,
    Stage,
)
from pathways_lite.studies import Study

SEEDS = (0, 1, 2)
STEPS = 1000
MODEL = Model(d_model=128, n_layers=4, n_heads=4, head_dim=32, d_ff=512, vocab_size=4096 + 256, dtype="float32")
OBJECTIVES = {"causal": Causal(), "ul2r": UL2R()}
EXTRA_COMPUTE = {"2": 0.02, "10": 0.1}


def stage(seed: int, **fields: object) -> Stage:
    return Stage(
        model=MODEL,
        data=Data(corpus="corpora/python", seq_len=256, shuffle_seed=seed),
        batch_size=8,
        saving=Saving(every=200, keep=1),
        log_every=5,
        **fields,
    )


def recipe(objective: str, extra: str, seed: int) -> Recipe:
    base = stage(
        seed,
        name="base",
        optimizer=AdamW(learning_rate=4e-3, schedule=Cosine(warmup=Fraction(n=0.05), end=0.1)),
        evaluation=Evaluation(every=250, tokens=50_000),
        budget=f"{STEPS} steps",
    )
    continued = stage(
        seed,
        name="more",
        start=Continue(),
        objective=OBJECTIVES[objective],
        optimizer=AdamW(learning_rate=4e-4, schedule=Constant(warmup=Fraction(n=0.1))),
        evaluation=Evaluation(every=50, tokens=50_000),
        budget=f"{round(STEPS * EXTRA_COMPUTE[extra])} steps",
    )
    return Recipe(name=f"{objective}_{extra}_{seed}", seed=seed, stages=(base, continued))


def study() -> Study:
    arms = {f"{objective}_{extra}": (objective, extra) for objective in OBJECTIVES for extra in EXTRA_COMPUTE}
    return Study(
        name="ul2r",
        question="Does a causal model keep its causal loss when its last steps are UL2R's?",
        arms={arm: tuple(recipe(*names, seed) for seed in SEEDS) for arm, names in arms.items()},
        baseline="causal_2",
    )
