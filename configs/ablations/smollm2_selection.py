r"""Selection towards a small target by continuing SmolLM2-135M: similarity, loss, and chance, at equal tokens.

    make smollm
    python tools/shaped_text.py corpora/mixed.jsonl pool=code:900K pool=prose:150K --piece 2000
    python tools/shaped_text.py corpora/mixed_target.jsonl target=prose:20K --after corpora/mixed.jsonl --piece 2000
    python tools/shaped_text.py corpora/mixed_held_out.jsonl target=prose:100K \
        --after corpora/mixed.jsonl corpora/mixed_target.jsonl
    pathways-lite data build corpora/mixed corpora/mixed.jsonl --held-out corpora/mixed_held_out.jsonl \
        --tokenizer runs/smollm2
    select() { method=$1 name=$2; shift 2; pathways-lite data select $method corpora/mixed corpora/$name.jsonl "$@" &&
        pathways-lite data apply corpora/$name.jsonl corpora/$name; }
    select random mixed_random --keep 0.15
    select rds mixed_rds --model runs/smollm2 --target corpora/mixed_target.jsonl --keep 0.15
    select perplexity mixed_middle --model runs/smollm2 --which middle --keep 0.15
    pathways-lite study run configs/ablations/smollm2_selection.py
    pathways-lite study evaluate configs/ablations/smollm2_selection.py --tokens 40000
    pathways-lite study report configs/ablations/smollm2_selection.py

Cost: 0.4 PFLOPs, 9 runs of 44 TFLOPs, 134.5M parameters, 51 thousand tokens; five minutes a run at the 169
tokens/s of two idle cores.
RDS+ and perplexity read the pool once more each, about 90 TFLOPs, which is not counted in an arm.

Expected result: not measured yet.

Criterion, fixed beforehand; Student's t at 95 % over three paired seeds of the final loss on the held-out target, Holm
over the arms, and the same sign by the interval over held-out documents: a selection holds if its arm ends below
`random`. The target is prose of the Python documentation, a seventh of the pool.
"""

from pathways_lite import recipe as r
from pathways_lite.models.presets import smollm2_135m
from pathways_lite.studies import Study

SEEDS = (0, 1, 2)
MODEL = smollm2_135m().model_copy(update={"dtype": "float32"})


def recipe(arm: str, seed: int) -> r.Recipe:
    stage = r.Stage(
        name="continued",
        model=MODEL,
        start=r.Restore(path="runs/smollm2"),
        data=r.Data(corpus=f"corpora/mixed_{arm}", seq_len=256, shuffle_seed=seed),
        optimizer=r.AdamW(learning_rate=1e-4, schedule=r.Cosine(warmup=r.Fraction(n=0.1), end=0.1)),
        batch_size=4,
        budget="50 steps",
        evaluation=r.Evaluation(every=25, tokens=8_000),
        saving=r.Saving(every=25, keep=1),
        log_every=5,
    )
    return r.Recipe(name=f"{arm}_{seed}", seed=seed, stages=(stage,))


def study() -> Study:
    return Study(
        name="smollm2_selection",
        question="Which selection from a pool brings SmolLM2 closer to a target than chance, at equal tokens?",
        arms={arm: tuple(recipe(arm, seed) for seed in SEEDS) for arm in ("random", "rds", "middle")},
        baseline="random",
    )
