"""When to stack, at 20 bytes per parameter, where the large model is worth its size.

    pathways-lite data build corpora/python_bytes python: --tokenizer bytes --held-out 0.03
    pathways-lite study run configs/ablations/growth_timing.py --jobs 2
    pathways-lite study report configs/ablations/growth_timing.py

Cost: 331 TFLOPs, 33 runs that share bases and trunks; about 3 hours on 2 idle cores.

Expected result: not measured yet.

Question: does G_stack's order of operators (Du et al. 2024, arXiv 2405.15319, figure 3) hold, and is there a best time
to grow inside the run, when the large model beats the small one at the same FLOPs? The target has 8 layers and 280k
parameters, the base 2 layers and 80k. An arm spends 12.5 TFLOPs, its base's included: the target alone reads 20 bytes
per parameter for them. Scratch is trained for 6.25, 9, 12.5 and 17 TFLOPs: one trunk at the full rate, from which each
budget branches off with a decay over its last 30 %, so that a speedup compares finished runs. A grown arm is
named by its operator and the percentage of the compute that the base takes.

Criteria, fixed before the first run; intervals are Student's t at 95 % over three paired seeds, Holm over the arms:
1. The design is sound if `small` ends above `scratch`. Otherwise nothing else is concluded.
2. G_stack's order holds if `stack_10` is below `scratch`, and neither `interpolate_10` nor `zero_10` is below
   `stack_10`.
3. There is a best time inside the run if the lowest mean of the `stack_*` arms is at 10 or 25 %, and the arms at 2.5
   and 50 % are both above it.
4. The speedup of an arm is read off the curve of the finished scratch runs, interpolated in log FLOPs.
"""

from pathways_lite import recipe as r
from pathways_lite.studies import Study

SEEDS = (0, 1, 2)
FLOPS = 12.5e12
DECAY = 0.3  # of an arm's compute
RATE = 1.6e-2  # the best of all three kinds of arms in growth_timing_rates.py
TARGET = r.Model(
    d_model=48, n_layers=8, n_heads=4, head_dim=12, d_ff=192, vocab_size=264, dtype="float32", scan_layers=False
)
BASE = TARGET.model_copy(update={"n_layers": 2})
SCRATCH = {"scratch_6": 0.5, "scratch_9": 0.72, "scratch": 1.0, "scratch_17": 1.36}  # of FLOPS, in this order
GROWN: dict[str, tuple[r.Operator, float]] = {  # operator, the base's fraction of the compute
    **{f"stack_{percent:g}": (r.Stack(), percent / 100) for percent in (2.5, 10, 25, 50)},
    "interpolate_10": (r.Interpolate(), 0.1),
    "zero_10": (r.ZeroInit(), 0.1),
}


def stage(seed: int, rate: float, schedule: r.Schedule, flops: float, **fields: object) -> r.Stage:
    return r.Stage(
        data=r.Data(corpus="corpora/python_bytes", seq_len=128, shuffle_seed=seed),
        optimizer=r.AdamW(learning_rate=rate, schedule=schedule),
        batch_size=32,
        budget=f"{flops:.0f} flops",
        evaluation=r.Evaluation(every=200, tokens=200_000),
        saving=r.Saving(every=400, keep=1),
        log_every=10,
        **fields,
    )


def from_scratch(model: r.Model, budgets: list[float], seed: int, rate: float) -> list[r.Stage]:
    """A trunk at the full rate up to where the last budget's decay begins, in a piece per budget, and that decay."""
    stages: list[r.Stage] = []
    spent = 0.0
    for number, budget in enumerate(budgets):
        steady = (1 - DECAY) * budget - spent
        schedule = r.Constant(warmup=r.Steps(n=0 if stages else 20))
        start = {"start": r.Continue(optimizer="keep")} if stages else {}
        stages.append(stage(seed, rate, schedule, steady, name=f"trunk_{number}", model=model, **start))
        spent += steady
    decay = r.Linear(warmup=r.Steps(n=0), end=0.1)
    tail = stage(seed, rate, decay, DECAY * budgets[-1], name="decay", model=model, start=r.Continue(optimizer="keep"))
    return [*stages, tail]


def recipe(arm: str, seed: int, rate: float = RATE, flops: float = FLOPS) -> r.Recipe:
    if arm == "small":
        stages = from_scratch(BASE, [flops], seed, rate)
    elif arm in SCRATCH:
        budgets = [fraction * flops for fraction in SCRATCH.values() if fraction <= SCRATCH[arm]]
        stages = from_scratch(TARGET, budgets, seed, rate)
    else:
        operator, fraction = GROWN[arm]
        constant, grow = r.Constant(warmup=r.Steps(n=20)), r.Grow(operator=operator)
        decaying = r.WSD(warmup=r.Steps(n=20), decay=r.Fraction(n=DECAY / (1 - fraction)), end=0.1)
        stages = [
            stage(seed, rate, constant, fraction * flops, name="base", model=BASE),
            stage(seed, rate, decaying, (1 - fraction) * flops, name="grown", model=TARGET, start=grow),
        ]
    return r.Recipe(name=f"{arm}_{seed}", seed=seed, stages=tuple(stages))


def study() -> Study:
    return Study(
        name="growth_timing",
        question="At equal FLOPs, the base's included, when does stacking pay where the large model is worth its size?",
        arms={arm: tuple(recipe(arm, seed) for seed in SEEDS) for arm in (*SCRATCH, *GROWN, "small")},
        baseline="scratch",
    )
