"""PaLM 8B as published (Chowdhery et al. 2022, arXiv 2204.02311): model, optimizer, batch ramp and loss.

    pathways-lite train configs/palm_8b.py --dry-run        # the cost; needs the corpus
    pathways-lite train configs/palm_8b.py

Cost: 780B tokens are 4.3e22 model FLOPs. Planned on 64 TPU v5p chips: 2.4 to 2.5 s per step, 6 N D MFU of 73 to 76 %
(docs/results/plans.md).

Expected result: not measured; the run was never trained here.

PaLM gives the switch steps of the batch ramp for 540B only ("similar schedules" for the others). Here it is that ramp's
1M -> 2M tokens at step 50,000, at half the sequences. Documents are packed without masking between them, as PaLM did.
"""

from pathways_lite.models.presets import palm_8b
from pathways_lite.recipe import Adafactor, Causal, Data, Evaluation, Ramp, Recipe, Saving, SpikeGuard, Stage


def recipe() -> Recipe:
    return Recipe(
        name="palm_8b",
        stages=(
            Stage(
                name="base",
                model=palm_8b().model_copy(update={"remat": "dots"}),
                data=Data(corpus="corpora/palm", seq_len=2048, boundaries="none"),
                objective=Causal(z_loss=1e-4),
                optimizer=Adafactor(),
                batch_size=Ramp(steps=((0, 256), (50_000, 512))),
                budget="780e9 tokens",
                guard=SpikeGuard(policy="rewind", threshold=1.0),
                evaluation=Evaluation(every=2500, tokens=2_000_000),
                saving=Saving(every=500, keep=5),
                log_every=10,
            ),
        ),
    )
