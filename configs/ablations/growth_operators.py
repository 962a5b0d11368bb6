"""Which way of growing pays: every operator, in depth and in width, by when and by how much, against scratch.

    pathways-lite data build corpora/python python: --tokenizer sentencepiece:4096 --held-out 0.03
    pathways-lite study run configs/ablations/growth_operators.py --jobs 2
    pathways-lite study report configs/ablations/growth_operators.py

15 arms of 3 seeds at equal FLOPs, the base's included: 45 runs of 6 TFLOPs and the bases that they share. `study plan`
says how long that takes on this machine; on two CPU cores that had other work, too, it took two hours. Du et al. 2024
(arXiv 2405.15319, figure 3) lead to expect: stacking below scratch and not above interpolation; growing a model that
has not been trained (d0) about scratch. What came out: docs/results/growth.md.

An arm's name is operator, direction, and what differs from a factor of 4 after a tenth of the compute; `small` trains
the base of 3 layers to the end.
"""

from pathways_lite.recipe import (
    WSD,
    AdamW,
    Constant,
    Data,
    Evaluation,
    Fraction,
    Grow,
    Interpolate,
    LiGO,
    MaskedGrowth,
    Model,
    Net2Net,
    Operator,
    Recipe,
    Saving,
    Stack,
    Stage,
    Steps,
    ZeroInit,
)
from pathways_lite.studies import Study

SEEDS = (0, 1, 2)
LEARNING = {"learned_depth": 4.64e11, "learned_width": 5.43e11}  # FLOPs of learning to grow, which the ledger books
FLOPS = 6e12
TARGET = Model(d_model=128, n_layers=12, n_heads=4, head_dim=32, d_ff=512, vocab_size=4096, dtype="float32")
THIN = {"d_model": 64, "n_heads": 2, "d_ff": 256}  # a quarter of the non-embedding parameters, as 3 layers are

# operator, what is smaller in the base, the base's share of the compute
ARMS: dict[str, tuple[Operator, dict[str, int], float]] = {
    "stack_depth": (Stack(), {"n_layers": 3}, 0.1),
    "interpolate_depth": (Interpolate(), {"n_layers": 3}, 0.1),
    "zero_depth": (ZeroInit(), {"n_layers": 3}, 0.1),
    "random_depth": (MaskedGrowth(), {"n_layers": 3}, 0.1),
    "learned_depth": (LiGO(steps=20), {"n_layers": 3}, 0.1),
    "direct_width": (Net2Net(), THIN, 0.1),
    "zero_width": (ZeroInit(), THIN, 0.1),
    "random_width": (MaskedGrowth(), THIN, 0.1),
    "learned_width": (LiGO(steps=20), THIN, 0.1),
    "stack_depth_d0": (Stack(), {"n_layers": 3}, 0.0),
    "stack_depth_early": (Stack(), {"n_layers": 3}, 0.03),
    "stack_depth_late": (Stack(), {"n_layers": 3}, 0.3),
    "stack_depth_g2": (Stack(), {"n_layers": 6}, 0.1),
}


def stage(seed: int, **fields: object) -> Stage:
    return Stage(
        data=Data(corpus="corpora/python", seq_len=128, shuffle_seed=seed),
        batch_size=8,
        evaluation=Evaluation(every=25, tokens=10_000),
        saving=Saving(every=100, keep=1),
        log_every=5,
        **fields,
    )


def recipe(arm: str, seed: int) -> Recipe:
    decaying = AdamW(learning_rate=4e-3, schedule=WSD(warmup=Fraction(n=0.05), decay=Fraction(n=0.4)))
    if arm in ("scratch", "small"):
        model = TARGET if arm == "scratch" else TARGET.model_copy(update={"n_layers": 3})
        stages = [stage(seed, name="scratch", model=model, optimizer=decaying, budget=f"{FLOPS} flops")]
    else:
        operator, smaller, share = ARMS[arm]
        small, steady = TARGET.model_copy(update=smaller), Constant(warmup=Steps(n=10))
        spent = f"{share * FLOPS} flops" if share else "1 steps"
        left = f"{(1 - share) * FLOPS - LEARNING.get(arm, 0)} flops"
        rate = AdamW(learning_rate=4e-3, schedule=steady)
        stages = [
            stage(seed, name="base", model=small, optimizer=rate, budget=spent),
            stage(seed, name="grown", start=Grow(operator=operator), model=TARGET, optimizer=decaying, budget=left),
        ]
    return Recipe(name=f"{arm}_{seed}", seed=seed, stages=tuple(stages))


def study() -> Study:
    return Study(
        name="growth_operators",
        question="At equal FLOPs, the small model's included, which growth operator ends below training from scratch?",
        arms={arm: tuple(recipe(arm, seed) for seed in SEEDS) for arm in ("scratch", *ARMS, "small")},
        baseline="scratch",
    )
