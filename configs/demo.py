"""A small PaLM on the text that came with Python: the whole stack in about three minutes on 2 CPU cores.

    make demo

or, by hand (the corpus takes about 10 seconds, once):

    pathways-lite data build corpora/python python:
    pathways-lite train configs/demo.py

Expected: see the table in README.md.
"""

from pathways_lite.recipe import WSD, Data, Evaluation, Fraction, Model, Muon, Recipe, Saving, Stage


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
                optimizer=Muon(schedule=WSD(warmup=Fraction(n=0.02), decay=Fraction(n=0.4))),
                batch_size=16,
                budget="300 steps",
                evaluation=Evaluation(every=100, tokens=50_000),
                saving=Saving(every=100),
            ),
        ),
    )
