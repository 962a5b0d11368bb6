"""The small model that reads a pool of documents for `pathways-lite data select`, trained on a third of the pool.

    pathways-lite train configs/selection_scorer.py

Cost: 1.8 TFLOPs, two to four minutes of a core that others used too, 87k parameters. The pool is that of
`configs/ablations/selection.py`, whose docstring has the commands.

Expected result: 3.28 bits per byte on the held-out target, docstrings, which are a tenth of what it reads.
"""

from pathways_lite.recipe import WSD, AdamW, Data, Evaluation, Fraction, Model, Recipe, Saving, Stage

MODEL = Model(d_model=64, n_layers=2, n_heads=4, head_dim=16, d_ff=128, vocab_size=264, dtype="float32", init="normal")


def recipe() -> Recipe:
    stage = Stage(
        name="base",
        model=MODEL,
        data=Data(corpus="corpora/pool", seq_len=128, shuffle_seed=100),
        optimizer=AdamW(learning_rate=8e-3, schedule=WSD(warmup=Fraction(n=0.03), decay=Fraction(n=0.3))),
        batch_size=32,
        budget="2.5e6 tokens",
        evaluation=Evaluation(every=200, tokens=50_000),
        saving=Saving(every=400, keep=1),
        log_every=10,
    )
    return Recipe(name="selection_scorer", seed=100, stages=(stage,))
