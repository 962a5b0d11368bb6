"""The learning rate for `growth_timing.py`: five rates for three kinds of arms at a quarter of its budget, one seed.

    pathways-lite data build corpora/python_bytes python: --tokenizer bytes --held-out 0.03
    pathways-lite study run configs/ablations/growth_timing_rates.py --jobs 2

Cost: 47 TFLOPs, 15 runs; half an hour on 2 CPU cores that others used too.

Expected result: 1.6e-2 is the best of the five rates for all three kinds. Held-out loss in nats per byte:

| rate | scratch | stack_10 | small |
|---|---|---|---|
| 2e-3 | 1.867 | 1.887 | 1.761 |
| 4e-3 | 1.687 | 1.689 | 1.613 |
| 8e-3 | 1.613 | 1.579 | 1.541 |
| 1.6e-2 | 1.603 | 1.554 | 1.497 |
| 3.2e-2 | 1.653 | 1.591 | 1.511 |

Criterion, fixed before the first run: the rate of `growth_timing.py` is the one with the lowest loss of scratch; it is
kept for all arms if no other arm would gain more than 0.02 nats from another rate, and set per arm otherwise.
"""

from growth_timing import FLOPS, recipe

from pathways_lite.studies import Study

RATES = (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)


def study() -> Study:
    return Study(
        name="growth_timing_rates",
        question="Which learning rate suits training from scratch, stacking and the small model?",
        arms={
            f"{arm}_{rate:g}": (recipe(arm, seed=0, rate=rate, flops=FLOPS / 4),)
            for arm in ("scratch", "stack_10", "small")
            for rate in RATES
        },
        baseline="scratch_0.004",
    )
