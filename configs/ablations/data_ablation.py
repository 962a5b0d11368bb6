"""Data ablation by model averaging: averages of models of partitions stand for models of their unions.

    pathways-lite data build corpora/languages TRAIN.jsonl.gz --held-out TEST.jsonl.gz --tokenizer sentencepiece:4096
    pathways-lite study run configs/ablations/data_ablation.py
    pathways-lite merge runs/latvian_swahili runs/data_ablation/nodes/A runs/data_ablation/nodes/B
    pathways-lite evaluate runs/latvian_swahili

Cost: 11 TFLOPs, 10 runs of 200 steps that share their first 100.

Expected result: losses of averages correlate with those of unions, by 0.99 (Pearson) in the languages trained on and by
0.87 to 0.96 in others (docs/results/mixtures.md).

Na et al. 2024 (arXiv 2410.15661): from one seed model a model is trained per partition, all for equally many steps; the
uniform average of some of them is evaluated instead of a model of their union. Here are the partitions and the unions
of two; `study plan` names the nodes to merge. The number of partitions is the number of runs; that of pairs is
quadratic.
"""

import itertools

from pathways_lite.recipe import (
    AdamW,
    Constant,
    Continue,
    Data,
    DataMixture,
    Evaluation,
    GivenWeights,
    MixturePhase,
    Model,
    Recipe,
    Saving,
    Stage,
    Steps,
)
from pathways_lite.studies import Study

SEEDS = (0,)
PARTITIONS = ("latvian", "swahili", "ukrainian", "gujarati")
MODEL = Model(
    d_model=128, n_layers=4, n_heads=4, head_dim=32, d_ff=512, vocab_size=4096, dtype="float32", scan_layers=False
)
UNIONS = {"_".join(domains): domains for n in (1, 2) for domains in itertools.combinations(PARTITIONS, n)}


def stage(domains: tuple[str, ...], seed: int, **fields: object) -> Stage:
    mixture = DataMixture(phases=(MixturePhase(weights=GivenWeights(weights=dict.fromkeys(domains, 1.0))),))
    return Stage(
        model=MODEL,
        data=Data(corpus="corpora/languages", seq_len=128, shuffle_seed=seed, mixture=mixture),
        optimizer=AdamW(learning_rate=2e-3, schedule=Constant(warmup=Steps(n=10))),
        batch_size=8,
        evaluation=Evaluation(every=50, tokens=4_000),
        saving=Saving(every=100, keep=1),
        log_every=5,
        **fields,
    )


def recipe(name: str, seed: int) -> Recipe:
    common = stage(PARTITIONS, seed, name="seed", budget="100 steps")
    continued = stage(UNIONS[name], seed, name="part", start=Continue(), budget="100 steps")
    return Recipe(name=f"{name}_{seed}", seed=seed, stages=(common, continued))


def study() -> Study:
    return Study(
        name="data_ablation",
        question="Do averages of models of partitions rank unions of the data as models of the unions do?",
        arms={name: tuple(recipe(name, seed) for seed in SEEDS) for name in UNIONS},
        baseline=PARTITIONS[0],
    )
