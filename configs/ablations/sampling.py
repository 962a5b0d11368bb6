r"""What do 4,096 samples say, what do 64 predict, what do weak verifiers let through, and which metric tells early?

    pathways-lite tasks make sum tasks/sum --documents 60000 --problems 64
    pathways-lite tasks make code tasks/code --documents 20000 --problems 64
    pathways-lite data build corpora/tasks sum=tasks/sum/documents.jsonl programs=tasks/code/documents.jsonl \
        --tokenizer sentencepiece:512
    pathways-lite data build corpora/sampling sum=tasks/sum/documents.jsonl programs=tasks/code/documents.jsonl \
        python: --tokenizer corpora/tasks --held-out 0.02
    pathways-lite study run configs/ablations/sampling.py
    SAMPLE="pathways-lite sample runs/sampling --each --temperature 1"
    $SAMPLE tasks/sum/problems.jsonl --out samples/sum --samples 4096 --max-tokens 8 --batch 512
    $SAMPLE tasks/code/problems.jsonl --out samples/code --samples 512 --max-tokens 80 --batch 1024
    pathways-lite judge samples/sum/* --predict 4096 --predict-from 64 --numbers sampling_sum.csv
    for n in 1 3; do pathways-lite judge samples/code/* --weak visible:$n --numbers sampling_code_$n.csv; done
    pathways-lite evaluate runs/sampling --tasks sum,code,sum:choices --limit 128 --along --every 2 \
        --out sampling_tasks.csv

Cost: 23 TFLOPs, 9 runs, 13 minutes; sampling 54 minutes more. That was beside ten other programs on two cores.

Expected result: coverage of sums rises from 2 to 80 % (docs/results/sampling.md), of which the Beta distribution's
predictions are 5 to 27 points too low; with one visible test 22 to 78 % of programs are solved, and 18 to 39 % passed
wrongly; continuous metrics tell earlier than accuracy.

Models of 76, 211 and 584 thousand parameters read 1.2 million tokens: two fifths each of sums and of programs over
lists, whose texts the tokenizer was made of, and a fifth of Python's documentation. One model of the largest size that
was tried before solved 2 % of the sums with a sample and half of them with some of 256, and 40 % of the programs with a
sample: sizes, steps and the temperature of 1 were chosen by that, and the criteria before any of these nine runs.

Criteria, fixed before the first run. Intervals are 95 %; those of samples resample problems, those of rankings runs.
1. Coverage of the sums. A prediction from the first 64 samples is right for a size if the interval that it has for
   4,096 contains the coverage that was measured, for at least two of three seeds. The Beta distribution of success
   probabilities (Schaeffer et al. 2025, arXiv 2502.17578) beats the power law exp(-a k^-b) (Brown et al. 2024,
   arXiv 2407.21787) if its mean error over the sizes is smaller in all three seeds.
2. Weak verifiers of the programs (Stroebl et al. 2024, arXiv 2411.17501). There is a ceiling if, with one visible test,
   the interval of false positives at K = 512 is above 0 for all seeds of a size; more tests raise it if three visible
   tests solve more than one at K = 512, for all seeds; the larger model's accepted samples are more often right if so
   for all seeds; attempts stop to pay if at a cost of 4 for a wrong result fewer than 10 attempts pay best, for at
   least two of three seeds.
3. Early ranking of the nine runs. A metric tells earlier than accuracy if at 25 % of the tokens the tau of its ranking
   with the final ranking by accuracy is larger than that of accuracy, in the mean over the tasks, and the interval of
   the difference is above 0. Metrics: ln p of the right answer, its nats per byte, p, Brier, held-out loss of all text.
"""

from pathways_lite import recipe as r
from pathways_lite.studies import Study

SEEDS = (0, 1, 2)
WIDTHS = (32, 56, 96)
STEPS = 600
MIXTURE = r.GivenWeights(weights={"sum": 0.4, "programs": 0.4, "prose": 0.2})


def recipe(width: int, seed: int) -> r.Recipe:
    stage = r.Stage(
        name="base",
        model=r.Model(
            d_model=width, n_layers=4, n_heads=4, head_dim=width // 4, d_ff=4 * width, vocab_size=512, dtype="float32",
            scan_layers=False,
        ),
        data=r.Data(
            corpus="corpora/sampling", seq_len=128, shuffle_seed=seed,
            mixture=r.DataMixture(phases=(r.MixturePhase(weights=MIXTURE),)),
        ),
        optimizer=r.AdamW(learning_rate=4e-3, schedule=r.WSD(warmup=r.Fraction(n=0.03), decay=r.Fraction(n=0.2))),
        batch_size=16,
        budget=f"{STEPS} steps",
        evaluation=r.Evaluation(every=STEPS // 10, tokens=10_000),
        saving=r.Saving(every=STEPS // 10, keep=10),
        log_every=20,
    )  # fmt: skip
    return r.Recipe(name=f"width_{width}_{seed}", seed=seed, stages=(stage,))


def study() -> Study:
    return Study(
        name="sampling",
        question="What do many samples say, what do 64 predict, and which metric tells a final ranking early?",
        arms={f"width_{width}": tuple(recipe(width, seed) for seed in SEEDS) for width in WIDTHS},
        baseline=f"width_{WIDTHS[-1]}",
    )
