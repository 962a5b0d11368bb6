"""The recipe of the frozen run: growth, pruning, denoising and loss-based weights, with dropout. Seconds on a CPU."""

from pathways_lite.recipe import (
    UL2R,
    AdamW,
    Compose,
    Continue,
    Cosine,
    Data,
    Direct,
    Evaluation,
    Grow,
    LinUpper,
    Model,
    Muon,
    Prune,
    Ramp,
    Recipe,
    Reweighting,
    Saving,
    Stack,
    Stage,
    Steps,
    Top,
)

SMALL = Model(d_model=8, n_layers=1, n_heads=2, head_dim=4, d_ff=16, vocab_size=257 + 31, dtype="float32", dropout=0.1)
LARGE = SMALL.model_copy(update={"d_model": 16, "n_layers": 2, "n_heads": 4, "d_ff": 32})


def recipe() -> Recipe:
    common = {
        "evaluation": Evaluation(every=6, tokens=600),
        "saving": Saving(every=4, keep=3),
        "log_every": 1,
    }
    data = Data(corpus="corpus", seq_len=64, shuffle_seed=3)
    base = Stage(
        name="base",
        model=SMALL,
        data=data,
        optimizer=AdamW(learning_rate=3e-3),
        batch_size=4,
        microbatch=2,
        budget="6 steps",
        reweighting=Reweighting(rule=Top(share=0.5), burn_in=Steps(n=0)),
        **common,
    )
    grown = Stage(
        name="grown",
        start=Grow(operator=Compose(depth=Stack(), width=Direct())),
        model=LARGE,
        data=data,
        optimizer=AdamW(learning_rate=3e-3, schedule=Cosine(warmup=Steps(n=1))),
        batch_size=Ramp(steps=((0, 2), (3, 4))),
        budget="8 steps",
        pruning=Prune(sparsity=0.5, every=1),
        **common,
    )
    denoised = Stage(
        name="denoised",
        start=Continue(),
        model=LARGE,
        data=data.model_copy(update={"boundaries": "none"}),
        objective=UL2R(),
        optimizer=Muon(learning_rate=5e-3),
        batch_size=4,
        budget="12 steps",
        reweighting=Reweighting(rule=LinUpper(temperature=0.5), burn_in=Steps(n=2)),
        **common,
    )
    return Recipe(name="frozen", seed=5, stages=(base, grown, denoised))
