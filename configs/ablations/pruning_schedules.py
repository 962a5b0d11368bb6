"""Pruning schedules, when and how much to prune: against dense training, at equal FLOPs with zeros skipped.

    pathways-lite data build corpora/python_bytes python: --tokenizer bytes --held-out 0.03
    pathways-lite study run configs/ablations/pruning_schedules.py --jobs 2
    pathways-lite study report configs/ablations/pruning_schedules.py

Cost: 96 TFLOPs with zeros skipped, 137 computed; 48 runs, two hours of one CPU core.

Expected result: schedules that prune to the end are 0.2 to 0.7 nats above dense training, those with recovery and 80 %
zeros 0.01 to 0.06 above it, and 40 and 60 % zeros 0.03 below it (docs/results/sparse.md).

All ten schedules of the grid of "The Journey Matters" (Jin et al. 2025, arXiv 2501.12486): dense for 0 to 75 % of the
compute, then pruning until 25 to 100 % of it, to 80 % zeros; its own schedule, 25 to 75 %, at 40 and 60 % too; and
dense models of the same depth and smaller width, whose sizes enclose the average sizes of the sparse ones. Tokens are
bytes, so most weights are in the blocks and see 4 to 30 tokens each. 3 seeds. `pruning_law.py` asks which size explains
the losses.

The name of an arm is the start and end of pruning (% of the compute), and the zeros (%).
"""

from pathways_lite.methods.pruning import mean_flops_per_token
from pathways_lite.recipe import WSD, AdamW, Data, Evaluation, Fraction, Model, Prune, Recipe, Saving, Stage
from pathways_lite.studies import Metric, Study

SEEDS = (0, 1, 2)
FLOPS = 2e12
SEQ_LEN = 128
GRID = [(begin, end) for begin in (0, 25, 50, 75) for end in (25, 50, 75, 100) if begin < end]


def decoder(width: int) -> Model:
    return Model(
        d_model=width,
        n_layers=4,
        n_heads=4,
        head_dim=width // 4,
        d_ff=4 * width,
        vocab_size=264,
        dtype="float32",
        scan_layers=False,
    )


ARMS: dict[str, tuple[Model, Prune | None]] = {
    "dense": (decoder(64), None),
    "dense_48": (decoder(48), None),
    "dense_40": (decoder(40), None),
    "dense_32": (decoder(32), None),
    **{
        f"{begin}_{end}_{zeros}": (
            decoder(64),
            Prune(sparsity=zeros / 100, begin=begin / 100, end=end / 100, update_every=5),
        )
        for begin, end, zeros in [*((*phase, 80) for phase in GRID), (25, 75, 40), (25, 75, 60)]
    },
}


def recipe(arm: str, seed: int) -> Recipe:
    model, prune = ARMS[arm]
    cost = mean_flops_per_token(prune, model, SEQ_LEN)
    stage = Stage(
        name="base",
        model=model,
        data=Data(corpus="corpora/python_bytes", seq_len=SEQ_LEN, shuffle_seed=seed),
        optimizer=AdamW(learning_rate=4e-3, schedule=WSD(warmup=Fraction(n=0.05), decay=Fraction(n=0.4))),
        batch_size=16,
        budget=f"{FLOPS / cost:.0f} tokens",
        pruning=prune,
        evaluation=Evaluation(every=200, tokens=60_000),
        saving=Saving(every=400, keep=1),
        log_every=10,
    )
    return Recipe(name=f"{arm}_{seed}", seed=seed, stages=(stage,))


def study() -> Study:
    return Study(
        name="pruning_schedules",
        question="At equal FLOPs where zeros are skipped, which schedule of pruning ends below dense training?",
        arms={arm: tuple(recipe(arm, seed) for seed in SEEDS) for arm in ARMS},
        baseline="dense",
        metric=Metric(flops="sparse"),
    )
