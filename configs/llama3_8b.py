"""Llama 3 8B (Grattafiori et al. 2024, arXiv 2407.21783) on a slice of 256 TPU v6e chips, mesh fsdp=256.

    pathways-lite plan configs/llama3_8b.py --topology v6e:16x16
    pathways-lite train configs/llama3_8b.py                        # on every host of the slice

Cost: 15T tokens are 9.2e23 model FLOPs. Planned: 2.5 to 2.7 s per step, 6 N D MFU of 32 to 34 %
(docs/results/plans.md).

Expected result: not measured; the run was never trained here.

The peak learning rate is the published one (table 3), with a linear warm-up and a cosine, at 4.2M tokens per step in
sequences of 8192, with attention within documents (section 3.2).
"""

from pathways_lite.models.presets import llama3_8b
from pathways_lite.recipe import AdamW, Causal, Cosine, Data, Evaluation, Recipe, Saving, SpikeGuard, Stage, Steps


def recipe() -> Recipe:
    return Recipe(
        name="llama3_8b",
        stages=(
            Stage(
                name="base",
                model=llama3_8b().model_copy(update={"remat": "attention"}),
                data=Data(corpus="corpora/llama", seq_len=8192),
                objective=Causal(z_loss=0.0),
                optimizer=AdamW(learning_rate=3e-4, schedule=Cosine(warmup=Steps(n=2000), end=0.01)),
                batch_size=512,
                budget="15e12 tokens",
                guard=SpikeGuard(policy="rewind", threshold=1.0),
                evaluation=Evaluation(every=2500, tokens=2_000_000),
                saving=Saving(every=500, keep=5),
                log_every=10,
            ),
        ),
    )
