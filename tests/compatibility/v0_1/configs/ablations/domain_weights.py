"""Learned domain weights, with the small models paid for: DoReMi and DoGE against the corpus's own weights.

    pathways-lite data build corpora/languages TRAIN.jsonl.gz --held-out TEST.jsonl.gz --tokenizer sentencepiece:4096
    pathways-lite study run configs/ablations/domain_weights.py
    pathways-lite study report configs/ablations/domain_weights.py

Cost: 27 TFLOPs, 9 runs of 3 including references and proxies, which take a quarter; about 20 minutes on 2 idle CPU
cores.

Expected result: not measured. Xie et al. 2023 (arXiv 2305.10429) report lower losses in all domains, Fan et al. 2023
(arXiv 2310.15393) a lower mean, at equal steps of the final model. They do not count the small models; this study does.

Any corpus of several domains works.
"""

from pathways_lite.recipe import (
    WSD,
    AdamW,
    Data,
    DataMixture,
    DoGE,
    DomainWeights,
    DoReMi,
    Evaluation,
    Fraction,
    LearnedWeights,
    MixturePhase,
    Model,
    Recipe,
    Reference,
    Saving,
    Scratch,
    Stage,
    Temperature,
)
from pathways_lite.studies import Study

SEEDS = (0, 1, 2)
FLOPS = 3e12  # of an arm, with all of its stages
MODEL = Model(d_model=128, n_layers=4, n_heads=4, head_dim=32, d_ff=512, vocab_size=4096, dtype="float32")
SMALL = MODEL.model_copy(update={"d_model": 64, "n_heads": 2, "d_ff": 256})
UNIFORM = Temperature(tau=1e9)


def stage(seed: int, weights: DomainWeights, flops: float, **fields: object) -> Stage:
    mixture = DataMixture(phases=(MixturePhase(weights=weights),))
    return Stage(
        start=Scratch(),
        data=Data(corpus="corpora/languages", seq_len=128, shuffle_seed=seed, mixture=mixture),
        optimizer=AdamW(learning_rate=4e-3, schedule=WSD(warmup=Fraction(n=0.05), decay=Fraction(n=0.4))),
        budget=f"{flops} flops",
        evaluation=Evaluation(every=50, tokens=4_000),
        saving=Saving(every=100, keep=1),
        log_every=5,
        **fields,
    )


def small_stages(arm: str, seed: int) -> list[Stage]:
    """Build references and proxies, 0.75 TFLOPs together; a proxy's batch has two rows of each of 8 domains."""
    if arm == "tau_1":
        return []
    proxy = {"name": "proxy", "model": SMALL, "batch_size": 16}
    if arm == "doge":
        return [stage(seed, UNIFORM, 0.75e12, **proxy, domain_weights=DoGE())]
    rule = DoReMi(reference=Reference(stage="reference"))
    return [
        stage(seed, Temperature(), 0.3e12, name="reference", model=SMALL, batch_size=8),
        stage(seed, UNIFORM, 0.45e12, **proxy, domain_weights=rule),
    ]


def recipe(arm: str, seed: int) -> Recipe:
    small = small_stages(arm, seed)
    weights = LearnedWeights(stage="proxy") if small else Temperature()
    remaining = FLOPS - 0.75e12 * bool(small)
    final = stage(seed, weights, remaining, name="final", model=MODEL, batch_size=8)
    return Recipe(name=f"{arm}_{seed}", seed=seed, stages=(*small, final))


def study() -> Study:
    return Study(
        name="domain_weights",
        question="At equal FLOPs, references and proxies included, do learned domain weights beat the corpus's?",
        arms={arm: tuple(recipe(arm, seed) for seed in SEEDS) for arm in ("tau_1", "doremi", "doge")},
        baseline="tau_1",
    )
