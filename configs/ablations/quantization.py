"""Does quantization cost more the longer a model was trained, and less the larger it is?

    pathways-lite data build corpora/python_bytes python: --tokenizer bytes --held-out 0.03
    pathways-lite study run configs/ablations/quantization.py --jobs 2
    pathways-lite runs quantization runs/quantization --bits 2,3,4,8 --calibration-tokens 32768 --out quantized.csv
    pathways-lite fit quantization quantized.csv N=N_non_embedding --by trunk \
        --where 'quantization == "gptq" and stage == "cooled" and P < 8'

Cost: 72 TFLOPs, 72 nodes; about 25 minutes on 2 idle cores, and half an hour for the measurements; 105
minutes in all at low priority.

Expected result: all three directions hold (docs/results/sampling.md); GPTQ halves the rise; 8 bits are free; the
exponents of tokens and size are larger than the paper's. Where rises at 4 bits are not above 0 the law is fitted to 2
and 3 bits.

Models of three sizes are trained at a constant rate, and saved at eight points of 0.13 to 2.1 million bytes: the trunk
of a WSD schedule. At four of these a branch lets the rate decay over another quarter of the tokens. Trunk and cooled
checkpoints are judged apart: a decaying rate changes how flat the loss is, and with a cosine schedule that would be
confounded with the tokens. Rounded are the kernels of the blocks, by both methods; the rise of the loss is the
difference from the same checkpoint on the same held-out text.

Criteria, fixed before the first run, for trunk and cooled checkpoints each, and for GPTQ and rounding to nearest each;
intervals are 95 %, of `fit quantization` on 2, 3 and 4 bits, with the nine trainings resampled:
1. The direction in bits holds if the interval of gamma is above 0; in tokens, if that of beta is; in size, if that of
   alpha is. An interval that includes 0 decides nothing.
2. GPTQ pays if its rise is below that of rounding to nearest in all three seeds, at 2 and at 3 bits, averaged over
   checkpoints.
3. 8 bits are free if the mean rise is below 0.001 nats in all three seeds.
The exponents need not be those of Ouyang et al. 2024 (arXiv 2411.17691): 0.53, 0.23 and 5.5 with Pythia and GPTQ.
"""

from pathways_lite import recipe as r
from pathways_lite.studies import Study

SEEDS = (0, 1, 2)
WIDTHS = (32, 64, 112)
PIECES = (128, 128, 256, 512)  # steps of the trunk; each piece is saved in its middle and at its end


def decoder(width: int) -> r.Model:
    return r.Model(
        d_model=width, n_layers=4, n_heads=4, head_dim=width // 4, d_ff=4 * width, vocab_size=264, dtype="float32",
        scan_layers=False,
    )  # fmt: skip


def stage(width: int, seed: int, steps: int, schedule: r.Schedule, *, saves: int = 2, **fields: object) -> r.Stage:
    return r.Stage(
        model=decoder(width),
        data=r.Data(corpus="corpora/python_bytes", seq_len=128, shuffle_seed=seed),
        optimizer=r.AdamW(learning_rate=4e-3, schedule=schedule),
        batch_size=16,
        budget=f"{steps} steps",
        evaluation=r.Evaluation(every=steps, tokens=50_000),
        saving=r.Saving(every=steps // saves, keep=saves),
        log_every=16,
        **fields,
    )


def recipe(width: int, pieces: int, seed: int) -> r.Recipe:
    """The first pieces of the trunk, and a decay over a quarter of their tokens."""
    keep = r.Continue(optimizer="keep")
    stages = []
    for number, steps in enumerate(PIECES[:pieces]):
        warmup = r.Constant(warmup=r.Steps(n=0 if number else 20))
        start = {"start": keep} if number else {}
        stages.append(stage(width, seed, steps, warmup, name=f"trunk_{number}", **start))
    decay = r.Linear(warmup=r.Steps(n=0), end=0.1)
    cooled = stage(width, seed, sum(PIECES[:pieces]) // 4, decay, saves=1, name="cooled", start=keep)
    return r.Recipe(name=f"width_{width}_{pieces}_{seed}", seed=seed, stages=(*stages, cooled))


def study() -> Study:
    arms = {
        f"width_{width}_{sum(PIECES[:pieces])}": tuple(recipe(width, pieces, seed) for seed in SEEDS)
        for width in WIDTHS
        for pieces in range(1, len(PIECES) + 1)
    }
    return Study(
        name="quantization",
        question="Does quantization cost more the longer a model was trained, and less the larger it is?",
        arms=arms,
        baseline=f"width_{WIDTHS[-1]}_{sum(PIECES)}",
    )
