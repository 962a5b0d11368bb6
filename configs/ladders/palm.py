"""A scaling ladder for a TPU slice or a GPU node: PaLM models of 25M to 270M parameters predict one of 2.0B.

    pathways-lite data build corpora/web DIRECTORY... --tokenizer sentencepiece:32000
    pathways-lite study plan configs/ladders/palm.py      # the rungs, and how long they take here
    pathways-lite study run configs/ladders/palm.py       # on one machine; elsewhere: docs/studies.md
    pathways-lite fit ladder configs/ladders/palm.py      # their law, and its prediction for the recipe below
    pathways-lite train configs/ladders/palm.py           # the largest run
    pathways-lite fit ladder configs/ladders/palm.py      # the prediction beside the measurement

Cost: 6.6e19 model FLOPs for all rungs, 5.1e20 for the largest run.

Expected result: not measured; the ladder was never trained here.

Learning rate and batch size are the Step Law's (Li et al. 2025), which was fitted from 60M parameters up: the two
smallest widths are a little below.
"""

from pathways_lite.models.accounting import parameter_count
from pathways_lite.recipe import AdamW, Cosine, Data, Evaluation, Fraction, Model, Recipe, Saving, SpikeGuard, Stage
from pathways_lite.scaling.laws.hyperparameters import step_law
from pathways_lite.studies import Study

WIDTHS = (384, 512, 768, 1024)
TOKENS_PER_PARAMETER = {10: (0,), 20: (0, 1, 2), 40: (0,)}  # seeds; the spread among them is measured at 20
LARGEST = (2048, 20)
HEAD_DIM, SEQ_LEN, VOCABULARY = 128, 2048, 32_000


def run(width: int, ratio: int, seed: int) -> Recipe:
    model = Model(
        d_model=width,
        n_layers=width // 64,
        n_heads=width // HEAD_DIM,
        head_dim=HEAD_DIM,
        d_ff=4 * width,
        vocab_size=VOCABULARY,
        remat="dots",
    )
    N = parameter_count(model, embedding=False)
    tokens = ratio * N
    advice = step_law(N=N, D=tokens)
    stage = Stage(
        model=model,
        data=Data(corpus="corpora/web", seq_len=SEQ_LEN, shuffle_seed=seed),
        optimizer=AdamW(learning_rate=advice["lr"], schedule=Cosine(warmup=Fraction(n=0.02))),
        batch_size=max(8, 8 * round(advice["B"] / SEQ_LEN / 8)),
        budget=f"{tokens} tokens",
        guard=SpikeGuard(policy="rewind", threshold=1.0),
        evaluation=Evaluation(every=1000, tokens=1_000_000),
        saving=Saving(every=1000, keep=1),
    )
    return Recipe(name=f"palm_{width}_{ratio}", seed=seed, stages=(stage,))


def study() -> Study:
    rungs = {
        f"width_{width}_ratio_{ratio}": tuple(run(width, ratio, seed) for seed in seeds)
        for ratio, seeds in TOKENS_PER_PARAMETER.items()
        for width in WIDTHS
    }
    return Study(
        name="palm_ladder",
        question="How well does the loss of small runs predict that of a run with 2.0B parameters?",
        arms=rungs,
        baseline=next(iter(rungs)),
    )


def recipe() -> Recipe:
    """Build the run to predict."""
    return run(*LARGEST, seed=0)
