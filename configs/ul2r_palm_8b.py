"""U-PaLM 8B (Tay et al. 2022, arXiv 2210.11399): PaLM 8B, then 50,000 steps of 128 sequences of UL2R's denoisers.

    mkdir -p runs/ul2r_palm_8b && ln -s ../palm_8b/base runs/ul2r_palm_8b/base    # if PaLM 8B was trained there
    pathways-lite train configs/ul2r_palm_8b.py --dry-run                         # the cost; needs the corpus
    pathways-lite train configs/ul2r_palm_8b.py

Cost: 7.2e20 model FLOPs for 13.1e9 tokens, 1.7 % of PaLM 8B's; the 540B model took 20,000 steps of 32, 0.17 %.

Expected result: not measured; the run was never trained here.

The learning rate is a cosine from 1e-4 to 1e-6; the paper found a low constant one as good. X and R with spans of 3
need 256 sentinels at a length of 2048, and there are 8 named tokens, so the corpus's tokenizer may have at most 255,736
tokens. Sequences are filled; the paper's layout, half for inputs and half for targets, is objective.layout=fixed.
"""

from pathlib import Path

from pathways_lite.recipe import UL2R, Adafactor, Continue, Cosine, Recipe, load_recipe


def recipe() -> Recipe:
    base = load_recipe(Path(__file__).with_name("palm_8b.py")).stages[0]
    changes = {
        "name": "ul2r",
        "start": Continue(),
        "objective": UL2R(),
        "optimizer": Adafactor(learning_rate=1e-4, schedule=Cosine(end=0.01)),
        "batch_size": 128,
        "budget": "50000 steps",
    }
    return Recipe(name="ul2r_palm_8b", stages=(base, type(base).model_validate({**dict(base), **changes})))
