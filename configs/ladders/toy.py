"""A scaling ladder on 2 CPU cores: the law of small runs predicts the loss of a larger one before it is trained.

    pathways-lite data build corpora/python_1k python: --tokenizer sentencepiece:1024 --held-out 0.03
    pathways-lite study run configs/ladders/toy.py      # the rungs: sizes x tokens x seeds
    pathways-lite fit ladder configs/ladders/toy.py     # their law, and its prediction for the recipe below
    pathways-lite train configs/ladders/toy.py          # the largest run
    pathways-lite fit ladder configs/ladders/toy.py     # the prediction beside the measurement

Cost: 3.8 TFLOPs for the 14 runs of all rungs, 1.1 for the largest run.

Expected result: 3.829 nats predicted, 3.805 measured, an error of 0.63 % (docs/results/ladder.md).

The batch size is the Step Law's (Li et al. 2025; `pathways-lite fit advise`). Its learning rate is four times too low
this far below the runs that it was fitted to. The rate here is proportional to 1 / width, as in muP (Yang et al. 2022),
from the best one at width 48.
"""

from pathways_lite.models.accounting import parameter_count
from pathways_lite.recipe import AdamW, Cosine, Data, Evaluation, Fraction, Model, Recipe, Saving, Stage
from pathways_lite.scaling.laws.hyperparameters import step_law
from pathways_lite.studies import Study

WIDTHS = (32, 48, 72)
SEEDS = {100_000: (0, 1), 200_000: (0, 1), 400_000: (0,)}  # by tokens: one where runs are expensive
LARGEST = (72, 400_000)  # the corner of the grid of widths and tokens, which is not a rung
LAYERS, SEQ_LEN, VOCABULARY = 4, 128, 1024
RATE = 2.8


def run(width: int, tokens: int, seed: int) -> Recipe:
    model = Model(
        d_model=width,
        n_layers=LAYERS,
        n_heads=4,
        head_dim=width // 4,
        d_ff=4 * width,
        vocab_size=VOCABULARY,
        dtype="float32",
    )
    batch_tokens = step_law(N=parameter_count(model, embedding=False), D=tokens)["B"]
    stage = Stage(
        model=model,
        data=Data(corpus="corpora/python_1k", seq_len=SEQ_LEN, shuffle_seed=seed),
        optimizer=AdamW(learning_rate=RATE / width, schedule=Cosine(warmup=Fraction(n=0.05))),
        batch_size=max(1, round(batch_tokens / SEQ_LEN)),
        budget=f"{tokens} tokens",
        evaluation=Evaluation(every=100_000, tokens=30_000),
        saving=Saving(every=100_000, keep=1),
    )
    return Recipe(name=f"toy_{width}_{tokens // 1000}k", seed=seed, stages=(stage,))


def study() -> Study:
    grid = [(width, tokens) for tokens in SEEDS for width in WIDTHS]
    rungs = {
        f"width_{width}_{tokens // 1000}k": tuple(run(width, tokens, seed) for seed in SEEDS[tokens])
        for width, tokens in grid
        if (width, tokens) != LARGEST
    }
    return Study(
        name="toy_ladder",
        question="How well does the loss of small runs predict that of a larger one?",
        arms=rungs,
        baseline=next(iter(rungs)),
    )


def recipe() -> Recipe:
    """Build the run to predict."""
    return run(*LARGEST, seed=0)
