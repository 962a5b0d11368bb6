"""How much of which denoiser teaches SmolLM2-135M to fill gaps, and at what cost in causal loss?

    make smollm
    pathways-lite grow runs/smollm2 runs/smollm2_ids --operator vocabulary --add-tokens 128
    pathways-lite data build corpora/smollm2 python: --tokenizer runs/smollm2 --held-out 0.03
    pathways-lite study run configs/ablations/smollm2_infilling.py
    pathways-lite study evaluate configs/ablations/smollm2_infilling.py --tokens 4000
    pathways-lite study report configs/ablations/smollm2_infilling.py

Cost: 2.5 PFLOPs, 18 runs that share trunks, 134.6M parameters; half an hour for an objective and a seed at the 169
tokens/s of two idle cores, several times that on busy ones.

Expected result: not measured yet.

Question: Tay et al. 2022 (arXiv 2210.11399) see infilling appear in PaLM after 0.1 to 2 % more tokens with UL2R. On
models that do not know the language yet, nothing appeared (docs/results/ul2r.md). This one knows it (Allal et al. 2025,
arXiv 2502.02737) and has only the task to learn, from 0.1 or 0.3 million tokens. Each objective trains one trunk at a
constant rate, from which both doses branch off with a decay over their last fifth. One rate for all, not tuned. X
denoisers mask spans of 8, as 32 would be one span in 256 tokens.

Criterion, fixed beforehand: infilling has appeared in an arm if tokens of a gap of 8 cost less given the text on both
sides than from left to right, by the same model; at no cost if its causal loss, behind the opener that it reads best,
is less than 0.02 nats above that of the causal arm of the same dose. Both with the whole 95 % interval over three
seeds.
"""

from ul2r_doses import UL2R_MEMBERS, mixture

from pathways_lite import recipe as r
from pathways_lite.models.presets import smollm2_135m
from pathways_lite.studies import Claim, Study

SEEDS = (0, 1, 2)
STEPS = {"0.1M": 100, "0.3M": 300}  # of 1,024 tokens; in this order
DECAY = 0.2
MODEL = smollm2_135m().model_copy(update={"dtype": "float32", "vocab_size": 49_152 + 128})
OBJECTIVES = {"causal": r.Causal(), "ul2r": mixture(UL2R_MEMBERS), "fim": r.FillInTheMiddle(rate=0.5)}


def stage(objective: str, seed: int, schedule: r.Schedule, steps: int, **fields: object) -> r.Stage:
    return r.Stage(
        model=MODEL,
        data=r.Data(corpus="corpora/smollm2", seq_len=256, shuffle_seed=seed),
        objective=OBJECTIVES[objective],
        optimizer=r.AdamW(learning_rate=1e-4, schedule=schedule),
        batch_size=4,
        budget=f"{steps} steps",
        evaluation=r.Evaluation(every=100, tokens=4_000),
        saving=r.Saving(every=50, keep=1),
        log_every=5,
        **fields,
    )


def recipe(objective: str, dose: str, seed: int) -> r.Recipe:
    stages: list[r.Stage] = []
    trained = 0
    for number, steps in enumerate(steps for steps in STEPS.values() if steps <= STEPS[dose]):
        more = round((1 - DECAY) * steps) - trained
        start = r.Continue(optimizer="keep") if stages else r.Restore(path="runs/smollm2_ids")
        schedule = r.Constant(warmup=r.Steps(n=0 if stages else 20))
        stages.append(stage(objective, seed, schedule, more, name=f"trunk_{number}", start=start))
        trained += more
    decay, keep = r.Linear(warmup=r.Steps(n=0), end=0.1), r.Continue(optimizer="keep")
    stages.append(stage(objective, seed, decay, STEPS[dose] - trained, name="decay", start=keep))
    return r.Recipe(name=f"{objective}_{dose}_{seed}", seed=seed, stages=tuple(stages))


def study() -> Study:
    arms = {f"{objective}_{dose}": (objective, dose) for dose in STEPS for objective in OBJECTIVES}
    return Study(
        name="smollm2_infilling",
        question="How much UL2R or FIM teaches a model that knows the language to fill gaps, and what does it cost?",
        arms={arm: tuple(recipe(*names, seed) for seed in SEEDS) for arm, names in arms.items()},
        baseline="causal_0.3M",
        baselines={arm: f"causal_{dose}" for arm, (_, dose) in arms.items()},
        criterion=(
            Claim(measure="infilling.single.difference", below=0.0),
            Claim(measure="openers.best.loss", below=0.02, compared=True),
        ),
        measures=("infilling.single.exact", "infilling.as_trained.difference", "infilling.single.tokens"),
    )
