"""Learning rates for `reweighting_one_domain.py`: three for each rule, at a quarter of its budget, one seed of its own.

    pathways-lite study run configs/ablations/reweighting_one_domain_rates.py --jobs 2
    pathways-lite study report configs/ablations/reweighting_one_domain_rates.py

Cost: 25 TFLOPs, 21 runs of 1.2; 1.1 minutes each at 18 GFLOP/s (a core that others used too).

Expected result: not measured yet.

The rule, fixed before it ran: each arm of `reweighting_one_domain.py` gets the rate with the lowest held-out loss of
`plain` here, and `static` that of `uniform`; rates are a factor of 2 apart, and that of uniform is not tuned further.
The corpus is that study's.
"""

from reweighting_one_domain import FLOPS, RULES, recipe

from pathways_lite.studies import Metric, Study

RATES = (4e-3, 8e-3, 1.6e-2)
SEED = 10


def study() -> Study:
    return Study(
        name="reweighting_one_domain_rates",
        question="Which learning rate suits each rule?",
        arms={
            f"{arm}_{rate:g}": (recipe(arm, SEED, rate, FLOPS / 4),)
            for arm in RULES
            if arm != "static"
            for rate in RATES
        },
        baseline="uniform_0.008",
        metric=Metric(domain="plain"),
    )
