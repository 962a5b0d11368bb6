"""A small recipe for tests of what recipes are."""

from pathways_lite.recipe import AdamW, Data, Model, Recipe, Stage

MODEL = Model(d_model=64, n_layers=4, n_heads=2, head_dim=32, d_ff=256, vocab_size=512)


def make_stage(name: str = "base", **changes: object) -> Stage:
    fields = {
        "name": name,
        "model": MODEL,
        "data": Data(corpus="corpora/x", seq_len=64),
        "optimizer": AdamW(),
        "batch_size": 8,
        "budget": "100 steps",
    }
    return Stage(**{**fields, **changes})


def make_recipe(*stages: Stage) -> Recipe:
    return Recipe(name="test", stages=stages or (make_stage(),))
