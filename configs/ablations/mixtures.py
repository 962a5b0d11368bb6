"""Mixtures of unequal languages: the corpus as it is, flattened, flattened at first, capped, or weighted in the loss.

    pathways-lite data build corpora/languages TRAIN.jsonl.gz --held-out TEST.jsonl.gz --tokenizer sentencepiece:4096
    pathways-lite study run configs/ablations/mixtures.py
    pathways-lite study report configs/ablations/mixtures.py

Cost: 36 TFLOPs, 18 runs of 2.

Expected result: tau = 5 and UniMax end 0.51 nats below tau = 1 in the mean over languages, Cooldown 0.33, and weights
in the loss 0.13 (docs/results/mixtures.md). Li et al. 2024 (arXiv 2410.04579) report that small domains lose least
under Cooldown and large ones under tau = 1, and that weights in the loss are noisier than reading more often.

Any corpus of domains of very different sizes works; `train --dry-run` on a recipe shows how often each would be seen.
"""

from pathways_lite.recipe import (
    WSD,
    AdamW,
    Data,
    DataMixture,
    Evaluation,
    Fraction,
    MixturePhase,
    Model,
    Recipe,
    Saving,
    Stage,
    Temperature,
    UniMax,
    cooldown,
)
from pathways_lite.studies import Study

SEEDS = (0, 1, 2)
MODEL = Model(
    d_model=128, n_layers=4, n_heads=4, head_dim=32, d_ff=512, vocab_size=4096, dtype="float32", scan_layers=False
)
FLAT = MixturePhase(weights=Temperature(tau=5))
ARMS = {
    "tau_1": DataMixture(),
    "tau_5": DataMixture(phases=(FLAT,)),
    "tau_5_in_the_loss": DataMixture(phases=(FLAT,), by="loss"),
    "cooldown": cooldown(),
    "warming": cooldown(high=1.0, low=5.0),
    "unimax": DataMixture(phases=(MixturePhase(weights=UniMax(epochs=4)),)),
}


def recipe(arm: str, seed: int) -> Recipe:
    stage = Stage(
        model=MODEL,
        data=Data(corpus="corpora/languages", seq_len=128, shuffle_seed=seed, mixture=ARMS[arm]),
        optimizer=AdamW(learning_rate=4e-3, schedule=WSD(warmup=Fraction(n=0.05), decay=Fraction(n=0.4))),
        batch_size=8,
        budget="2e12 flops",
        evaluation=Evaluation(every=50, tokens=4_000),
        saving=Saving(every=100, keep=1),
        log_every=5,
    )
    return Recipe(name=f"{arm}_{seed}", seed=seed, stages=(stage,))


def study() -> Study:
    return Study(
        name="mixtures",
        question="At equal FLOPs, which mixture of unequal languages ends lowest, and for which of them?",
        arms={arm: tuple(recipe(arm, seed) for seed in SEEDS) for arm in ARMS},
        baseline="tau_1",
    )
