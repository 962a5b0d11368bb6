"""Sparse pretraining: a PaLM of 2M parameters that is pruned to 80 % zeros while it trains.

    pathways-lite data build corpora/python python: --tokenizer sentencepiece:4096 --held-out 0.03
    pathways-lite train configs/sparse.py
    pathways-lite inspect runs/sparse --picture sparsity.png
    pathways-lite convert runs/sparse --sparse runs/sparse_masks

Cost: 5.3 TFLOPs, 3.5 with zeros skipped; some minutes on 2 CPU cores.

Expected result: 20 % of the kernels' weights are active. The loss was not measured (docs/results/sparse.md).

The schedule is that of "The Journey Matters" (Jin et al. 2025, arXiv 2501.12486): a quarter of the compute dense, half
pruning the kernels of the blocks by magnitude, a quarter recovering. To prune MLP channels instead, which leaves a
smaller dense model (2:4 patterns leave a compressed one):

    pathways-lite train configs/sparse.py stages.base.pruning.structure=channels --out runs/channels
    pathways-lite convert runs/channels --sparse runs/channels_smaller
"""

from pathways_lite.recipe import WSD, AdamW, Data, Evaluation, Fraction, Model, Prune, Recipe, Saving, Stage


def recipe() -> Recipe:
    base = Stage(
        name="base",
        model=Model(d_model=128, n_layers=6, n_heads=4, head_dim=32, d_ff=512, vocab_size=4096, dtype="float32"),
        data=Data(corpus="corpora/python", seq_len=128),
        optimizer=AdamW(learning_rate=4e-3, schedule=WSD(warmup=Fraction(n=0.05), decay=Fraction(n=0.4))),
        batch_size=8,
        budget="400 steps",
        pruning=Prune(sparsity=0.8, update_every=5),
        evaluation=Evaluation(every=100, tokens=20_000),
        saving=Saving(every=100),
        log_every=5,
    )
    return Recipe(name="sparse", stages=(base,))
