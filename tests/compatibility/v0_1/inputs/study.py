"""The frozen study: two arms of two seeds, whose recipes share a trunk per seed. Seconds on a CPU."""

from pathways_lite.recipe import SGD, AdamW, Continue, Data, Evaluation, Model, Recipe, Saving, Stage
from pathways_lite.studies import Study


def recipe(arm: str, rate: float, seed: int) -> Recipe:
    trunk = Stage(
        name="trunk",
        model=Model(d_model=8, n_layers=1, n_heads=2, head_dim=4, d_ff=16, vocab_size=257, dtype="float32"),
        data=Data(corpus="corpus", seq_len=64, shuffle_seed=seed),
        optimizer=AdamW(learning_rate=1e-2),
        batch_size=2,
        budget="6 steps",
        evaluation=Evaluation(every=3, tokens=600),
        saving=Saving(every=6, keep=1),
        log_every=2,
    )
    changes = {"name": "tail", "start": Continue(), "optimizer": SGD(learning_rate=rate)}
    return Recipe(name=f"{arm}_{seed}", seed=seed, stages=(trunk, trunk.model_copy(update=changes)))


def study() -> Study:
    rates = {"slow": 0.1, "fast": 0.8}
    return Study(
        name="rates",
        question="Which learning rate ends lower?",
        arms={arm: tuple(recipe(arm, rate, seed) for seed in (0, 1)) for arm, rate in rates.items()},
        baseline="slow",
    )
