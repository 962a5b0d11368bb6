"""Which data is good for which text, without training on every union of it: averages of models stand for unions.

    pathways-lite data build corpora/languages TRAIN.jsonl.gz --held-out TEST.jsonl.gz --tokenizer sentencepiece:4096
    pathways-lite study run configs/ablations/data_ablation.py
    pathways-lite merge runs/latvian_swahili runs/data_ablation/nodes/A runs/data_ablation/nodes/B
    pathways-lite evaluate runs/latvian_swahili

Na et al. 2024 (arXiv 2410.15661): from one seed model a model is trained per partition, for equally many steps; the
uniform average of some of them is then evaluated instead of a model of their union, with which its losses correlate.
Here are the partitions and the unions of two; `study plan` names the nodes to merge. Partitions cost as many runs as
there are of them, while their pairs grow with the square.
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
UNIONS = {"_".join(of): of for n in (1, 2) for of in itertools.combinations(PARTITIONS, n)}


def stage(of: tuple[str, ...], seed: int, **fields: object) -> Stage:
    mixture = DataMixture(phases=(MixturePhase(weights=GivenWeights(weights=dict.fromkeys(of, 1.0))),))
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
    part = stage(UNIONS[name], seed, name="part", start=Continue(), budget="100 steps")
    return Recipe(name=f"{name}_{seed}", seed=seed, stages=(common, part))


def study() -> Study:
    return Study(
        name="data_ablation",
        question="Do averages of models of parts of the data rank its unions as models of the unions do?",
        arms={name: tuple(recipe(name, seed) for seed in SEEDS) for name in UNIONS},
        baseline=PARTITIONS[0],
    )
