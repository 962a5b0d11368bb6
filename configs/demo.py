"""A small PaLM on the text that comes with Python: the whole stack on 2 CPU cores.

    make demo

or, by hand (the corpus takes 15 seconds, once):

    pathways-lite data build corpora/python python: --tokenizer sentencepiece:4096 --held-out 0.03
    pathways-lite train configs/demo.py

Cost: 10 TFLOPs (2.9M parameters, 524,288 tokens), 2.5 minutes on 2 CPU cores.

Expected result: 1.936 bits per byte on held-out code, 2.607 on prose (docs/results/foundation.md).
"""

from pathways_lite.recipe import WSD, AdamW, Data, Evaluation, Fraction, Model, Recipe, Saving, Stage


def recipe() -> Recipe:
    model = Model(
        d_model=192,
        n_layers=4,
        n_heads=4,
        head_dim=48,
        d_ff=4 * 192,
        vocab_size=4096,
        dtype="float32",
    )
    return Recipe(
        name="demo",
        stages=(
            Stage(
                name="base",
                model=model,
                data=Data(corpus="corpora/python", seq_len=256),
                optimizer=AdamW(learning_rate=4e-3, schedule=WSD(warmup=Fraction(n=0.05), decay=Fraction(n=0.4))),
                batch_size=8,
                budget="256 steps",
                evaluation=Evaluation(every=128, tokens=50_000),
                saving=Saving(every=64),
                log_every=5,
            ),
        ),
    )
