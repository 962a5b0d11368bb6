"""How often to read which language: the corpus as it is, flattened, flattened at first, capped, or counted in the loss.

    pathways-lite data build corpora/languages TRAIN.jsonl.gz --held-out TEST.jsonl.gz --tokenizer sentencepiece:4096
    pathways-lite study run configs/ablations/mixtures.py
    pathways-lite study report configs/ablations/mixtures.py

Any corpus of domains of very different sizes does; `train --dry-run` on a recipe says how often each would be seen. 6
arms of 3 seeds of 2 TFLOPs. Li et al. 2024 (arXiv 2410.04579) lead to expect: small domains lose least under
Cooldown, large ones under tau = 1, and counting in the loss is noisier than reading more often.
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
