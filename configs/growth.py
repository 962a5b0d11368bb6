"""G_stack (Du et al. 2024, arXiv 2405.15319): a PaLM of 2 layers, stacked four times to 8 layers.

    pathways-lite data build corpora/python python: --tokenizer sentencepiece:4096 --held-out 0.03
    pathways-lite train configs/growth.py

Cost: 17 TFLOPs, of which the base takes 2; some minutes on 2 CPU cores. 1.9M parameters grow to 5.1M.

Expected result: not measured. A study of all operators at similar sizes is in docs/results/growth.md.

The grown stage continues with the data where the base stopped, with a fresh optimizer and its own warm-up. Any corpus
works: set stages.base.data.corpus and stages.grown.data.corpus, and both models' vocab_size. Operators, and what the
loss does: docs/growth.md.
"""

from pathways_lite.recipe import (
    WSD,
    AdamW,
    Constant,
    Data,
    Evaluation,
    Fraction,
    Grow,
    Model,
    Recipe,
    Saving,
    Stack,
    Stage,
    Steps,
)

SMALL = Model(d_model=192, n_layers=2, n_heads=4, head_dim=48, d_ff=768, vocab_size=4096, dtype="float32")
COMMON = {
    "data": Data(corpus="corpora/python", seq_len=256),
    "batch_size": 8,
    "evaluation": Evaluation(every=64, tokens=50_000),
    "saving": Saving(every=64),
    "log_every": 5,
}


def recipe() -> Recipe:
    base = Stage(
        name="base",
        model=SMALL,
        optimizer=AdamW(learning_rate=4e-3, schedule=Constant(warmup=Steps(n=10))),
        budget="80 steps",
        **COMMON,
    )
    grown = Stage(
        name="grown",
        start=Grow(operator=Stack()),
        model=SMALL.model_copy(update={"n_layers": 8}),
        optimizer=AdamW(learning_rate=4e-3, schedule=WSD(warmup=Fraction(n=0.05), decay=Fraction(n=0.4))),
        budget="208 steps",
        **COMMON,
    )
    return Recipe(name="growth", stages=(base, grown))
