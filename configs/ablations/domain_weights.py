"""Domain weights, with the small models paid for: DoReMi and DoGE against weights that are functions of sizes.

    pathways-lite data build corpora/languages_bytes TRAIN.jsonl.gz --held-out TEST.jsonl.gz --tokenizer bytes
    pathways-lite study run configs/ablations/domain_weights.py --jobs 2
    pathways-lite study evaluate configs/ablations/domain_weights.py --tokens 100000
    pathways-lite study report configs/ablations/domain_weights.py

Cost: 113 TFLOPs, 25 runs of 4.5 in 87k parameters, 72 bytes per parameter. At the 14 to 28
GFLOP/s of a core that others used too, 3 to 5 minutes a run.

Expected result: not measured yet.

TRAIN and TEST are chapters of eight languages from the bible corpus of christos-c/bible-corpus on GitHub (CC0, one XML
file per language), 796 kB of Latvian down to 5 kB of Wolof, and about 90 kB of other chapters of each; any corpus of
several domains works.

Question: Xie et al. 2023 (arXiv 2305.10429) report lower losses in all domains for DoReMi than for proportional
reading, Fan et al. 2023 (arXiv 2310.15393) a lower mean for DoGE, at equal steps of the final model and without the
small models' cost. Here all arms have the same FLOPs, references and proxies included, a fifth of them. `doge` moves
its weights as fast as the authors' code: their mu is 0.01 for scores that are D - 1 times as large for D similar
domains.

Criterion, fixed beforehand; Student's t at 95 % over five paired seeds of the mean loss over the eight languages with
equal weights, Holm over the arms:
1. Learned weights hold if an arm ends below `tau_1`.
2. They are worth learning if it also ends below `tau_2` and `unimax`, which cost nothing.
"""

from pathways_lite import recipe as r
from pathways_lite.studies import Study

SEEDS = (0, 1, 2, 3, 4)
FLOPS = 4.5e12  # of an arm, with all of its stages
SMALL_MODELS = 0.9e12  # of references and proxies together
MODEL = r.Model(
    d_model=64, n_layers=2, n_heads=4, head_dim=16, d_ff=128, vocab_size=264, dtype="float32", init="normal"
)
SMALL = MODEL.model_copy(update={"d_model": 32, "n_heads": 2, "d_ff": 64})
UNIFORM = r.Temperature(tau=1e9)
LANGUAGES = 8
WEIGHTS = {"tau_1": r.Temperature(), "tau_2": r.Temperature(tau=2), "unimax": r.UniMax(epochs=4)}


def stage(seed: int, weights: r.DomainWeights, flops: float, **fields: object) -> r.Stage:
    mixture = r.DataMixture(phases=(r.MixturePhase(weights=weights),))
    return r.Stage(
        start=r.Scratch(),
        data=r.Data(corpus="corpora/languages_bytes", seq_len=128, shuffle_seed=seed, mixture=mixture),
        optimizer=r.AdamW(learning_rate=8e-3, schedule=r.WSD(warmup=r.Fraction(n=0.03), decay=r.Fraction(n=0.3))),
        batch_size=32,
        budget=f"{flops:.0f} flops",
        evaluation=r.Evaluation(every=400, tokens=20_000),
        saving=r.Saving(every=400, keep=1),
        log_every=10,
        **fields,
    )


def small_stages(arm: str, seed: int) -> list[r.Stage]:
    """Build references and proxies; a proxy's batch has four rows of each of 8 languages."""
    proxy = {"name": "proxy", "model": SMALL}
    if arm == "doge":
        return [stage(seed, UNIFORM, SMALL_MODELS, **proxy, domain_weights=r.DoGE(mu=0.01 / (LANGUAGES - 1)))]
    rule = r.DoReMi(reference=r.Reference(stage="reference"))
    return [
        stage(seed, r.Temperature(), 0.4 * SMALL_MODELS, name="reference", model=SMALL),
        stage(seed, UNIFORM, 0.6 * SMALL_MODELS, **proxy, domain_weights=rule),
    ]


def recipe(arm: str, seed: int) -> r.Recipe:
    small = [] if arm in WEIGHTS else small_stages(arm, seed)
    weights = WEIGHTS.get(arm, r.LearnedWeights(stage="proxy"))
    final = stage(seed, weights, FLOPS - SMALL_MODELS * bool(small), name="final", model=MODEL)
    return r.Recipe(name=f"{arm}_{seed}", seed=seed, stages=(*small, final))


def study() -> Study:
    return Study(
        name="domain_weights",
        question="At equal FLOPs, references and proxies included, do learned domain weights beat functions of sizes?",
        arms={arm: tuple(recipe(arm, seed) for seed in SEEDS) for arm in (*WEIGHTS, "doremi", "doge")},
        baseline="tau_1",
    )
