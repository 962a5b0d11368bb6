"""Continue SmolLM2-135M-Instruct (Allal et al. 2025, arXiv 2502.02737) on one's own text, on two CPU cores.

    make smollm-continue TEXT="my_notes/ book.txt"

fetches the model, builds a corpus of the text with the model's tokenizer, and trains. Without TEXT it takes what every
Python installation carries. The same by hand:

    make smollm
    pathways-lite data build corpora/smollm2 python: --tokenizer runs/smollm2 --held-out 0.03
    pathways-lite train configs/smollm2_continue.py
    pathways-lite generate runs/smollm2_continue --prompt "def main("

Cost: COST

Expected result: RESULT
"""

from pathways_lite.recipe import WSD, AdamW, Data, Evaluation, Fraction, Model, Recipe, Restore, Saving, Stage

MODEL = Model(
    d_model=576,
    n_layers=30,
    n_heads=9,
    n_kv_heads=3,
    head_dim=64,
    d_ff=1536,
    vocab_size=49_152,
    block="serial",
    norm_epsilon=1e-5,
    rope_base=100_000.0,
    logit_scale=1.0,
    init="normal",
    dtype="float32",
)


def recipe() -> Recipe:
    stage = Stage(
        name="continued",
        model=MODEL,
        start=Restore(path="runs/smollm2"),
        data=Data(corpus="corpora/smollm2", seq_len=256),
        optimizer=AdamW(learning_rate=1e-4, schedule=WSD(warmup=Fraction(n=0.1), decay=Fraction(n=0.4))),
        batch_size=4,
        budget="60 steps",
        evaluation=Evaluation(every=30, tokens=10_000),
        saving=Saving(every=30, keep=1),
        log_every=1,
    )
    return Recipe(name="smollm2_continue", stages=(stage,))
