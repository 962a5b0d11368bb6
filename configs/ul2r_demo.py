"""UL2R (Tay et al. 2022, arXiv 2210.11399) on a laptop: the demo's PaLM, then a tenth more compute with denoisers.

    pathways-lite data build corpora/python python: --tokenizer sentencepiece:4096 --held-out 0.03
    pathways-lite train configs/ul2r_demo.py
    pathways-lite evaluate runs/ul2r_demo --infilling
    pathways-lite generate runs/ul2r_demo --infill "import <mask>, sys"

Cost: 12 TFLOPs (2.9M parameters, 256 causal steps and 26 of UL2R).

Expected result: 1.907 bits per byte on held-out code, 2.564 on prose; no gap is filled exactly (docs/results/ul2r.md).

UL2R is half prefix LM, a quarter each of extreme and regular span corruption. The model has 256 more ids than the
tokenizer, for sentinels and mode tokens; a sequence of 256 needs 40. The UL2R stage continues the data, so nothing is
read twice, with its own schedule. The causal held-out loss is shown beside each denoiser's, which are not comparable
with it: docs/ul2r.md.
"""

from pathways_lite.recipe import (
    UL2R,
    WSD,
    AdamW,
    Continue,
    Cosine,
    Data,
    Evaluation,
    Fraction,
    Model,
    Recipe,
    Saving,
    Stage,
)

COMMON = {
    "model": Model(
        d_model=192, n_layers=4, n_heads=4, head_dim=48, d_ff=4 * 192, vocab_size=4096 + 256, dtype="float32"
    ),
    "data": Data(corpus="corpora/python", seq_len=256),
    "batch_size": 8,
    "evaluation": Evaluation(every=128, tokens=50_000),
    "saving": Saving(every=64),
}


def recipe() -> Recipe:
    base = Stage(
        name="base",
        optimizer=AdamW(learning_rate=4e-3, schedule=WSD(warmup=Fraction(n=0.05), decay=Fraction(n=0.4))),
        budget="256 steps",
        log_every=5,
        **COMMON,
    )
    ul2r = Stage(
        name="ul2r",
        start=Continue(),
        objective=UL2R(),
        optimizer=AdamW(learning_rate=1e-3, schedule=Cosine(warmup=Fraction(n=0.1))),
        budget="26 steps",
        log_every=1,
        **COMMON,
    )
    return Recipe(name="ul2r_demo", stages=(base, ul2r))
