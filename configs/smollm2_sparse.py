"""Sparse continued pretraining of a real model: SmolLM2-135M to half of its weights, as "The Journey Matters" prunes.

    make smollm
    pathways-lite data build corpora/smollm2 python: --tokenizer runs/smollm2 --held-out 0.03
    pathways-lite train configs/smollm2_sparse.py
    pathways-lite convert runs/smollm2_sparse --sparse runs/smollm2_masks

Cost: 1.7 TFLOPs, 1.4 with zeros skipped (2,048 tokens); 27.7 s per step on 2 cores with a
load of 20.

Expected result: half of the weights of the blocks are zero, and bits per byte rise from 0.786 to 2.044 on held-out
code, from 1.246 to 2.364 on prose.

The schedule is that of Jin et al. 2025 (arXiv 2501.12486): a quarter of the compute dense, half pruning, a quarter
recovering. Published models are pruned over billions of tokens; these few steps show the mechanism, and its cost.
"""

from pathways_lite.models.presets import smollm2_135m
from pathways_lite.recipe import WSD, AdamW, Data, Evaluation, Fraction, Prune, Recipe, Restore, Saving, Stage

SMOLLM2 = smollm2_135m().model_copy(update={"dtype": "float32"})


def recipe() -> Recipe:
    stage = Stage(
        name="sparse",
        model=SMOLLM2,
        start=Restore(path="runs/smollm2"),
        data=Data(corpus="corpora/smollm2", seq_len=128),
        optimizer=AdamW(learning_rate=1e-4, schedule=WSD(warmup=Fraction(n=0.1), decay=Fraction(n=0.4))),
        batch_size=2,
        budget="8 steps",
        pruning=Prune(sparsity=0.5, update_every=1),
        evaluation=Evaluation(every=8, at_start=True, tokens=2_000),
        saving=Saving(every=100, keep=1),
        log_every=1,
    )
    return Recipe(name="smollm2_sparse", stages=(stage,))
