"""PaLM 540B as published (Chowdhery et al. 2022, arXiv 2204.02311) on its own mesh: two slices of 3072 TPU v4 chips,
copies of the model in each, 256 x fsdp and 12 x tensor within (section 4).

    pathways-lite plan configs/palm_540b.py --topology v4:12x16x16 --slices 2
    pathways-lite train configs/palm_540b.py                        # on every host of both slices

Cost: 776B tokens, by the published ramp (section 5) up to step 255,000, are 2.5e24 model FLOPs; PaLM's chips reached
46.2 % of their peak. The vocabulary is filled up from 256,000 to 258,048 entries, which 12 divides. Expected result:
none of ours, as nobody has run it here.
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
