"""PaLM's parallel block against Llama's serial one: which learns more per FLOP at a few million parameters?

    pathways-lite data build corpora/python python: --tokenizer sentencepiece:4096 --held-out 0.03
    pathways-lite study run configs/studies/palm_against_llama.py --jobs 2
    pathways-lite study report configs/studies/palm_against_llama.py

Cost: 12 TFLOPs, 6 runs of 2; 14 minutes of node time, two at a time on 2 CPU cores that other processes used too.

Expected result: palm's loss is lower by 0.062 nats [0.049, 0.075] (docs/results/studies.md).

The arms differ in the block and what comes with it: PaLM's has one norm, attention and MLP side by side and a single
key-value head (Chowdhery et al. 2022, section 2); Llama's has two norms, one after the other and a key-value head per
head (Touvron et al. 2023). Width, depth, vocabulary, optimizer and data order are the same; the budget is in FLOPs.
"""

from pathways_lite.recipe import WSD, AdamW, Data, Evaluation, Fraction, Model, Recipe, Saving, Stage
from pathways_lite.studies import Study

SEEDS = (0, 1, 2)
SHAPE = {"d_model": 128, "n_layers": 4, "n_heads": 4, "head_dim": 32, "vocab_size": 4096, "dtype": "float32"}
BLOCKS = {
    "palm": Model(**SHAPE, block="parallel", n_kv_heads=1, d_ff=512),
    "llama": Model(**SHAPE, block="serial", n_kv_heads=4, d_ff=448),
}


def recipe(arm: str, seed: int) -> Recipe:
    base = Stage(
        name="base",
        model=BLOCKS[arm],
        # The seed changes the initialization and the order of the data, equally for both arms.
        data=Data(corpus="corpora/python", seq_len=128, shuffle_seed=seed),
        optimizer=AdamW(learning_rate=4e-3, schedule=WSD(warmup=Fraction(n=0.05), decay=Fraction(n=0.4))),
        batch_size=8,
        budget="2e12 flops",
        evaluation=Evaluation(every=25, tokens=10_000),
        saving=Saving(every=50, keep=1),
        log_every=5,
    )
    return Recipe(name=f"{arm}_{seed}", seed=seed, stages=(base,))


def study() -> Study:
    return Study(
        name="palm_against_llama",
        question="At equal FLOPs, does a small model learn more with PaLM's parallel block or with Llama's serial one?",
        arms={arm: tuple(recipe(arm, seed) for seed in SEEDS) for arm in BLOCKS},
        baseline="llama",
    )
