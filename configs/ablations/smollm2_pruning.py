"""SmolLM2-135M pruned to half of its weights, freely and 2:4: at once, at once with recovery, and gradually.

    make smollm
    pathways-lite data build corpora/smollm2 python: --tokenizer runs/smollm2 --held-out 0.03
    pathways-lite study run configs/ablations/smollm2_pruning.py
    pathways-lite study evaluate configs/ablations/smollm2_pruning.py --tokens 20000
    pathways-lite study report configs/ablations/smollm2_pruning.py

Cost: 1.1 PFLOPs computed, 12 runs of 88 TFLOPs and 6 of a step, 134.5M parameters, 102 thousand tokens; ten minutes a
run at the 169 tokens/s of two idle cores, 46 where others used them too.

Expected result: not measured yet.

Question: how much of what pruning breaks do 0.1M tokens mend, and is it better to prune step by step? The arms that end
in `_once` are pruned by magnitude and not trained: their one step has a rate of 1e-9. `dense` continues as long.

Criterion, fixed beforehand; Student's t at 95 % over three paired seeds of the final loss, Holm over the arms:
1. Recovery holds if half_recovered and two_four_recovered end below half_once and two_four_once.
2. Gradual pruning, by the schedule of Jin et al. 2025 (arXiv 2501.12486), holds if half_gradual ends below
   half_recovered, which has more steps with all of its zeros.
"""

from pathways_lite import recipe as r
from pathways_lite.models.presets import smollm2_135m
from pathways_lite.studies import Metric, Study

SEEDS = (0, 1, 2)
MODEL = smollm2_135m().model_copy(update={"dtype": "float32"})
AT_ONCE = {"start_sparsity": 0.5, "begin": 0.0, "end": 0.0}
ARMS: dict[str, r.Prune | None] = {
    "dense": None,
    "half_once": r.Prune(sparsity=0.5, **AT_ONCE),
    "half_recovered": r.Prune(sparsity=0.5, **AT_ONCE),
    "half_gradual": r.Prune.as_published(0.5, update_every=5, allocation="tensor", scope=("linear",)),
    "two_four_once": r.Prune(sparsity=0.5, structure=r.NM(), **AT_ONCE),
    "two_four_recovered": r.Prune(sparsity=0.5, structure=r.NM(), **AT_ONCE),
}


def recipe(arm: str, seed: int) -> r.Recipe:
    is_trained = not arm.endswith("_once")
    stage = r.Stage(
        name="sparse",
        model=MODEL,
        start=r.Restore(path="runs/smollm2"),
        data=r.Data(corpus="corpora/smollm2", seq_len=256, shuffle_seed=seed),
        optimizer=r.AdamW(
            learning_rate=1e-4 if is_trained else 1e-9, schedule=r.Cosine(warmup=r.Fraction(n=0.1), end=0.1)
        ),
        batch_size=4,
        budget="100 steps" if is_trained else "1 steps",
        pruning=ARMS[arm],
        evaluation=r.Evaluation(every=50, tokens=4_000),
        saving=r.Saving(every=50, keep=1),
        log_every=5,
    )
    return r.Recipe(name=f"{arm}_{seed}", seed=seed, stages=(stage,))


def study() -> Study:
    return Study(
        name="smollm2_pruning",
        question="What does pruning half of a trained model's weights cost, with and without recovery?",
        arms={arm: tuple(recipe(arm, seed) for seed in SEEDS) for arm in ARMS},
        baseline="dense",
        metric=Metric(flops="dense"),
    )
