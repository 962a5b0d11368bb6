"""PaLM 62B as published (Chowdhery et al. 2022, arXiv 2204.02311) on 512 TPU v4 chips: 128 x fsdp, 4 x tensor.

    pathways-lite plan configs/palm_62b.py --topology v4:8x8x8      # memory, time and cost, before paying for a chip
    pathways-lite train configs/palm_62b.py                         # on every host of the slice

Cost: 795B tokens are 3.1e23 model FLOPs. Planned: 5.0 s per step, 6 N D MFU of 55 % (docs/results/plans.md).

Expected result: not measured; the run was never trained here.

The switch steps of the batch ramp are published for 540B only. Here it is the same first switch at half the sequences.
"""

from pathways_lite.models.presets import palm_62b
from pathways_lite.recipe import Adafactor, Causal, Data, Evaluation, Mesh, Ramp, Recipe, Saving, SpikeGuard, Stage


def recipe() -> Recipe:
    return Recipe(
        name="palm_62b",
        stages=(
            Stage(
                name="base",
                model=palm_62b().model_copy(update={"remat": "dots"}),
                data=Data(corpus="corpora/palm", seq_len=2048, boundaries="none"),
                objective=Causal(z_loss=1e-4),
                optimizer=Adafactor(),
                batch_size=Ramp(steps=((0, 256), (50_000, 512))),
                budget="795e9 tokens",
                mesh=Mesh(fsdp=128, tensor=4),
                guard=SpikeGuard(policy="rewind", threshold=1.0),
                evaluation=Evaluation(every=2500, tokens=2_000_000),
                saving=Saving(every=500, keep=5),
                log_every=10,
            ),
        ),
    )
