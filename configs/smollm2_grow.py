"""G_stack (Du et al. 2024, arXiv 2405.15319) on a real model: SmolLM2-135M stacked from 30 layers to 60.

    make smollm
    pathways-lite data build corpora/smollm2 python: --tokenizer runs/smollm2 --held-out 0.03
    pathways-lite train configs/smollm2_grow.py

Cost: 3.5 TFLOPs (134.5M parameters grow to 240.7M; 2,560 tokens); 22.1 s per step of 60 layers on 2 cores with a load
of 20.

Expected result: the base has 0.777 bits per byte on held-out code and 1.242 on prose. Stacking does not keep the
function: the loss of a batch is 7.03 in the first step after it and 3.07 in the eighth, with 1.168 and 1.939 bits per
byte then.

The base stage continues the model for a few steps, so that both stages read one stream of data. To grow it without
training: pathways-lite grow runs/smollm2 runs/smollm2_60 --operator stack --factor 2
"""

from pathways_lite.models.presets import smollm2_135m
from pathways_lite.recipe import (
    WSD,
    AdamW,
    Constant,
    Data,
    Evaluation,
    Fraction,
    Grow,
    Recipe,
    Restore,
    Saving,
    Stack,
    Stage,
)

SMOLLM2 = smollm2_135m().model_copy(update={"dtype": "float32"})
COMMON = {
    "data": Data(corpus="corpora/smollm2", seq_len=128),
    "batch_size": 2,
    "evaluation": Evaluation(every=8, at_start=True, tokens=2_000),
    "saving": Saving(every=100, keep=1),
    "log_every": 1,
}


def recipe() -> Recipe:
    base = Stage(
        name="base",
        model=SMOLLM2,
        start=Restore(path="runs/smollm2"),
        optimizer=AdamW(learning_rate=3e-5, schedule=Constant(warmup=Fraction(n=0.5))),
        budget="2 steps",
        **COMMON,
    )
    grown = Stage(
        name="grown",
        model=SMOLLM2.model_copy(update={"n_layers": 60}),
        start=Grow(operator=Stack()),
        optimizer=AdamW(learning_rate=3e-4, schedule=WSD(warmup=Fraction(n=0.2), decay=Fraction(n=0.4))),
        budget="8 steps",
        **COMMON,
    )
    return Recipe(name="smollm2_grow", stages=(base, grown))
