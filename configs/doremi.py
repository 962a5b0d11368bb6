"""Domain weights by DoReMi, and a model that uses them: reference, proxy and final model in one recipe.

    pathways-lite data build corpora/python python: --tokenizer sentencepiece:4096 --held-out 0.03
    pathways-lite train configs/doremi.py

Cost: 10 TFLOPs, a third of them for the two small models; about four minutes on 2 idle CPU cores.

Expected result: not measured. The proxy's log shows how the weights change, `--dry-run` that they are not known yet,
and the first line of the last stage how often each domain will be seen.

Any corpus of several domains works: add stages.*.data.corpus=... for each stage.
"""

from pathways_lite.recipe import (
    WSD,
    AdamW,
    Data,
    DataMixture,
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

MODEL = Model(d_model=192, n_layers=4, n_heads=4, head_dim=48, d_ff=768, vocab_size=4096, dtype="float32")
SMALL = MODEL.model_copy(update={"d_model": 96, "n_heads": 2, "d_ff": 384})
UNIFORM, LEARNED = Temperature(tau=1e9), LearnedWeights(stage="proxy")


def stage(name: str, weights: Temperature | LearnedWeights, flops: float, model: Model, **fields: object) -> Stage:
    mixture = DataMixture(phases=(MixturePhase(weights=weights),))
    return Stage(
        name=name,
        start=Scratch(),
        model=model,
        data=Data(corpus="corpora/python", seq_len=256, mixture=mixture),
        optimizer=AdamW(learning_rate=4e-3, schedule=WSD(warmup=Fraction(n=0.05), decay=Fraction(n=0.4))),
        batch_size=8,
        budget=f"{flops} flops",
        evaluation=Evaluation(every=128, tokens=50_000),
        saving=Saving(every=64),
        log_every=5,
        **fields,
    )


def recipe() -> Recipe:
    reference = stage("reference", Temperature(), 1.4e12, SMALL)
    rule = DoReMi(reference=Reference(stage="reference"))
    proxy = stage("proxy", UNIFORM, 1.9e12, SMALL, domain_weights=rule)
    return Recipe(name="doremi", stages=(reference, proxy, stage("final", LEARNED, 6.7e12, MODEL)))
