"""Growth operators in depth and width, by time and factor of growth, against training from scratch.

    pathways-lite data build corpora/python python: --tokenizer sentencepiece:4096 --held-out 0.03
    pathways-lite study run configs/ablations/growth_operators.py --jobs 2
    pathways-lite study report configs/ablations/growth_operators.py

Cost: 255 TFLOPs, 45 runs of 6 including the bases, some of them shared; two hours on 2 CPU cores that had other work
too.

Expected result: growth in depth after a tenth of the compute ends 0.07 to 0.17 nats below scratch (stacking 0.13),
growth in width 0.03 to 0.21 above, growth of an untrained base (`d0`) about equal (docs/results/growth.md).

15 arms of 3 seeds at equal FLOPs. Du et al. 2024 (arXiv 2405.15319, figure 3) report stacking below scratch and not
above interpolation, and growth of an untrained model at about scratch. The name of an arm is operator, direction, and
what differs from a factor of 4 after a tenth of the compute; `small` trains the base of 3 layers to the end.
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
LIGO_FLOPS = {"learned_depth": 4.64e11, "learned_width": 5.43e11}  # of training the maps, which the ledger counts
FLOPS = 6e12
TARGET = Model(d_model=128, n_layers=12, n_heads=4, head_dim=32, d_ff=512, vocab_size=4096, dtype="float32")
THIN = {"d_model": 64, "n_heads": 2, "d_ff": 256}  # a quarter of the non-embedding parameters, as 3 layers are

# operator, sizes that are smaller in the base, the base's fraction of the compute
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
        operator, smaller, fraction = ARMS[arm]
        constant = AdamW(learning_rate=4e-3, schedule=Constant(warmup=Steps(n=10)))
        base_budget = f"{fraction * FLOPS} flops" if fraction else "1 steps"
        budget = f"{(1 - fraction) * FLOPS - LIGO_FLOPS.get(arm, 0)} flops"
        stages = [
            stage(seed, name="base", model=TARGET.model_copy(update=smaller), optimizer=constant, budget=base_budget),
            stage(seed, name="grown", start=Grow(operator=operator), model=TARGET, optimizer=decaying, budget=budget),
        ]
    return Recipe(name=f"{arm}_{seed}", seed=seed, stages=tuple(stages))


def study() -> Study:
    return Study(
        name="growth_operators",
        question="At equal FLOPs, the small model's included, which growth operator ends below training from scratch?",
        arms={arm: tuple(recipe(arm, seed) for seed in SEEDS) for arm in ("scratch", *ARMS, "small")},
        baseline="scratch",
    )
