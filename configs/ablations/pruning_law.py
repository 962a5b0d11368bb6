"""Runs for a scaling law of sparse models: does the average size explain the loss, or the final size?

    pathways-lite data build corpora/python_bytes python: --tokenizer bytes --held-out 0.03
    pathways-lite study run configs/ablations/pruning_law.py --jobs 2
    pathways-lite runs table runs/pruning_law --final --out sparse.csv
    pathways-lite fit average-parameters sparse.csv
    pathways-lite fit chinchilla sparse.csv N=N_active

Cost: 74 TFLOPs with zeros skipped, 86 computed; 63 runs of 0.5, 1 and 2 TFLOPs, 3 seeds each.

Expected result: the law of average sizes predicts the 2 TFLOPs runs to 1.3 %, that of final sizes to 2.5 %; at 80 %
zeros the former is too optimistic by 0.06 to 0.12 nats (docs/results/sparse.md).

"The Journey Matters" (Jin et al. 2025, arXiv 2501.12486) fits L = E + A/N̄^α + B/D^β to dense and sparse runs together,
where N̄ is the mean number of active parameters over tokens. At one budget N̄ D is the same everywhere and the two laws
cannot be distinguished, hence three budgets, for dense models of four widths and for models pruned to 40, 60 and 80 %
zeros between 25 and 75 % of the compute. Runs of `pruning_schedules.py`, with the same models, show how far a law
extends to other schedules.
"""

from pathways_lite.methods.pruning import mean_flops_per_token
from pathways_lite.recipe import WSD, AdamW, Data, Evaluation, Fraction, Model, Prune, Recipe, Saving, Stage
from pathways_lite.studies import Study

SEEDS = (0, 1, 2)
TERAFLOPS = (0.5, 1, 2)
SEQ_LEN = 128


def decoder(width: int) -> Model:
    return Model(
        d_model=width,
        n_layers=4,
        n_heads=4,
        head_dim=width // 4,
        d_ff=4 * width,
        vocab_size=264,
        dtype="float32",
        scan_layers=False,
    )


MODELS: dict[str, tuple[Model, Prune | None]] = {
    **{f"dense_{width}": (decoder(width), None) for width in (64, 48, 40, 32)},
    **{f"zeros_{zeros}": (decoder(64), Prune(sparsity=zeros / 100, update_every=5)) for zeros in (40, 60, 80)},
}


def recipe(name: str, teraflops: float, seed: int) -> Recipe:
    model, prune = MODELS[name]
    cost = mean_flops_per_token(prune, model, SEQ_LEN)
    stage = Stage(
        name="base",
        model=model,
        data=Data(corpus="corpora/python_bytes", seq_len=SEQ_LEN, shuffle_seed=seed),
        optimizer=AdamW(learning_rate=4e-3, schedule=WSD(warmup=Fraction(n=0.05), decay=Fraction(n=0.4))),
        batch_size=16,
        budget=f"{teraflops * 1e12 / cost:.0f} tokens",
        pruning=prune,
        evaluation=Evaluation(every=200, tokens=60_000),
        saving=Saving(every=400, keep=1),
        log_every=10,
    )
    return Recipe(name=f"{name}_{teraflops:g}_{seed}", seed=seed, stages=(stage,))


def study() -> Study:
    return Study(
        name="pruning_law",
        question="Does the average size of a model in training, or its final one, explain its loss?",
        arms={
            f"{name}_{teraflops:g}": tuple(recipe(name, teraflops, seed) for seed in SEEDS)
            for teraflops in TERAFLOPS
            for name in MODELS
        },
        baseline="dense_64_2",
    )
