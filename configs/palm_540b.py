"""PaLM 540B as published (Chowdhery et al. 2022, arXiv 2204.02311) on its own mesh: two slices of 3072 TPU v4 chips.

    pathways-lite plan configs/palm_540b.py --topology v4:12x16x16 --slices 2
    pathways-lite train configs/palm_540b.py                        # on every host of both slices

Cost: 776B tokens are 2.5e24 model FLOPs. Planned: 15.4 s per step, 6 N D MFU of 52 % (docs/results/plans.md); PaLM's
chips reached 46.2 % of their peak.

Expected result: not measured; the run was never trained here.

Each slice has a copy of the model, 256 x fsdp and 12 x tensor (section 4). The batch ramp is the published one (section
5) up to step 255,000. The vocabulary is padded from 256,000 to 258,048 entries, a multiple of 12.
"""

from pathways_lite.models.presets import palm_540b
from pathways_lite.recipe import Adafactor, Causal, Data, Evaluation, Mesh, Ramp, Recipe, Saving, SpikeGuard, Stage


def recipe() -> Recipe:
    return Recipe(
        name="palm_540b",
        stages=(
            Stage(
                name="base",
                model=palm_540b().model_copy(update={"vocab_size": 258_048, "remat": "up"}),
                data=Data(corpus="corpora/palm", seq_len=2048, boundaries="none"),
                objective=Causal(z_loss=1e-4),
                optimizer=Adafactor(),
                batch_size=Ramp(steps=((0, 512), (50_000, 1024), (115_000, 2048))),
                budget="255e3 steps",
                mesh=Mesh(pod=2, fsdp=256, tensor=12),
                guard=SpikeGuard(policy="rewind", threshold=1.0),
                evaluation=Evaluation(every=2500, tokens=2_000_000),
                saving=Saving(every=500, keep=5),
                log_every=10,
            ),
        ),
    )
