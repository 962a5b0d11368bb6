"""A small PaLM on English novels, on 2 CPU cores.

    pathways-lite data build corpora/novels novels.jsonl.gz --tokenizer sentencepiece:8192
    pathways-lite train configs/novels.py

Cost: 29 TFLOPs (2.0M parameters, 2.1M tokens), 9.4 minutes on 2 CPU cores.

Expected result: 1.958 bits per byte on 16 held-out chapters (docs/results/foundation.md).

The text is 90 public-domain novels (computationalstylistics/100_english_novels on GitHub) as JSONL with `text`,
`domain` and `id`; any other JSONL of books works too. Larger models: presets.palm_small, presets.palm_medium.
"""

from pathways_lite.models.presets import palm_tiny
from pathways_lite.recipe import AdamW, Cosine, Data, Evaluation, Fraction, Recipe, Saving, Stage


def recipe() -> Recipe:
    return Recipe(
        name="novels",
        stages=(
            Stage(
                name="base",
                model=palm_tiny(vocab_size=8192).model_copy(update={"dtype": "float32"}),
                data=Data(corpus="corpora/novels", seq_len=256),
                optimizer=AdamW(learning_rate=5e-3, schedule=Cosine(warmup=Fraction(n=0.05))),
                batch_size=8,
                budget="2.1e6 tokens",
                evaluation=Evaluation(every=250, tokens=100_000),
                saving=Saving(every=250),
            ),
        ),
    )
