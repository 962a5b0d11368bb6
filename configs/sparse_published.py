"""Sparse pretraining by the schedule of "The Journey Matters" (Jin et al. 2025, arXiv 2501.12486), on a laptop.

    pathways-lite data build corpora/python python: --tokenizer sentencepiece:4096 --held-out 0.03
    pathways-lite train configs/sparse_published.py

Cost: 9.0 TFLOPs, 5.6 with zeros skipped; some minutes on 2 CPU cores.

Expected result: 20 % of the kernels' weights are active, the output matrix's among them. The loss was not measured. At
1B parameters and 80 % zeros, the paper's model card has a training loss of 2.228, and 2.237 for a dense model of about
the average size (docs/sparse.md).

As in the paper's code: one threshold for all kernels, densities that are geometric in steps, updates at both ends, and
a learning rate that falls to a tenth along a cosine after a warm-up of 1 %. The code updates every 100 steps; this run
is shorter.
"""

from pathways_lite.recipe import AdamW, Cosine, Data, Evaluation, Fraction, Model, Prune, Recipe, Saving, Stage


def recipe() -> Recipe:
    base = Stage(
        name="base",
        model=Model(
            d_model=128,
            n_layers=6,
            n_heads=4,
            n_kv_heads=4,
            head_dim=32,
            d_ff=344,
            vocab_size=4096,
            block="serial",
            tie_embeddings=False,
            init="normal",
            dtype="float32",
        ),
        data=Data(corpus="corpora/python", seq_len=128),
        optimizer=AdamW(learning_rate=2e-3, schedule=Cosine(warmup=Fraction(n=0.01), end=0.1)),
        batch_size=8,
        budget="600 steps",
        pruning=Prune.as_published(0.8, update_every=10),
        evaluation=Evaluation(every=100, tokens=20_000),
        saving=Saving(every=100),
        log_every=5,
    )
    return Recipe(name="sparse_published", stages=(base,))
