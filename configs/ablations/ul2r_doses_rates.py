"""Learning rates for `ul2r_doses.py`: each arm at its dose of 3 %, one seed, from the same base.

    pathways-lite study run configs/ablations/ul2r_doses_rates.py --out runs/ul2r_doses --jobs 2
    pathways-lite study evaluate configs/ablations/ul2r_doses_rates.py --out runs/ul2r_doses --tokens 150000
    pathways-lite study report configs/ablations/ul2r_doses_rates.py --out runs/ul2r_doses

Cost: 203 TFLOPs with the base of seed 0, which is 140 of them; the study trains neither it nor its own rates again.

Expected result: not measured yet.

The rule, fixed before it ran: of the causal arm the rate with the lowest causal loss (`openers.best.loss`), of all
others that with the lowest loss of their own examples' text (`infilling.as_trained.content_loss`). It goes into `RATES`
of `ul2r_doses.py`. Where the best is the lowest or the highest, one more rate beyond it is tried. The directory is that
of the study, which then finds the base and what both train.
"""

from ul2r_doses import OBJECTIVES, recipe

from pathways_lite.studies import Study

RATES = {"3e-4": 3e-4, "1e-3": 1e-3, "3e-3": 3e-3}
SEED = 0


def study() -> Study:
    arms = {f"{arm}_{name}": (recipe(arm, "3", SEED, rate),) for arm in OBJECTIVES for name, rate in RATES.items()}
    return Study(
        name="ul2r_doses_rates",
        question="Which learning rate suits each objective at a dose of 3 %?",
        arms=arms,
        baseline="causal_1e-3",
        measures=("openers.best.loss", "infilling.as_trained.content_loss", "infilling.as_trained.difference"),
    )
