"""Is a sparse model as good as a dense one of its average size, or of its final one? Runs for a law to be fitted to.

    pathways-lite data build corpora/python_bytes python: --tokenizer bytes --held-out 0.03
    pathways-lite study run configs/ablations/pruning_law.py --jobs 2
    pathways-lite runs table runs/pruning_law --final --out sparse.csv
    pathways-lite fit average-parameters sparse.csv
    pathways-lite fit chinchilla sparse.csv N=N_active

"The Journey Matters" (Jin et al. 2025, arXiv 2501.12486) fits L = E + A/N̄^α + B/D^β to dense and sparse runs together,
N̄ being the mean over tokens of the parameters that are active. At one budget N̄ D is the same everywhere, and two laws
cannot be told apart; so here dense models of four widths and models pruned to 40, 60 and 80 % zeros, between 25 and
75 % of the compute, are trained with 0.5, 1 and 2 TFLOPs each, zeros skipped: 63 runs, 3 seeds. Runs of
`pruning_schedules.py`, of the same models, tell how far a law reaches to other schedules.
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
