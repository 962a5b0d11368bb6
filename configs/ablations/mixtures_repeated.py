r"""Mixtures where flattening overfits: a small domain that tau = 5 reads fourteen times, beside a large one.

    python tools/shaped_text.py corpora/unequal.jsonl large=code:2M small=prose:75K
    python tools/shaped_text.py corpora/unequal_held_out.jsonl large=code:300K small=prose:300K \
        --after corpora/unequal.jsonl
    pathways-lite data build corpora/unequal corpora/unequal.jsonl --held-out corpora/unequal_held_out.jsonl \
        --tokenizer sentencepiece:2048
    pathways-lite study run configs/ablations/mixtures_repeated.py --jobs 2
    pathways-lite study evaluate configs/ablations/mixtures_repeated.py --tokens 200000
    pathways-lite study report configs/ablations/mixtures_repeated.py

Cost: 208 TFLOPs, 21 runs of 9.9 in 1.2M parameters, one token per parameter. At the 31 GFLOP/s of one
core, 5.3 minutes a run.

Expected result: not measured yet.

Question: Li et al. 2024 (arXiv 2410.04579) say that Cooldown is best because constant upsampling overfits small
domains; `mixtures.py` read none often enough to see that. They also say that weights in the loss are noisier than
reading more often; its arm was clipped, so here this arm, and a sampling arm beside it, are not.

Criterion, fixed beforehand; Student's t at 95 % over three paired seeds, Holm over the arms:
1. The design is sound if tau_5's loss on `small` ends above its lowest value on the way. Otherwise nothing follows.
2. Cooldown holds if it ends below tau_5 on `small` and not above tau_1 on `large`; its order matters if it ends below
   `warming` on both.
3. "By sampling" holds if tau_5_unclipped ends below tau_5_in_the_loss in the mean over both domains.
"""

from pathways_lite import recipe as r
from pathways_lite.studies import Study

SEEDS = (0, 1, 2)
MODEL = r.Model(d_model=128, n_layers=4, n_heads=4, head_dim=32, d_ff=512, vocab_size=2048, dtype="float32")


FLAT = (r.MixturePhase(weights=r.Temperature(tau=5)),)
ARMS = {
    "tau_1": r.DataMixture(),
    "tau_5": r.DataMixture(phases=FLAT),
    "tau_5_unclipped": r.DataMixture(phases=FLAT),
    "tau_5_in_the_loss": r.DataMixture(phases=FLAT, by="loss"),
    "cooldown": r.cooldown(),
    "warming": r.cooldown(high=1.0, low=5.0),
    "unimax": r.DataMixture(phases=(r.MixturePhase(weights=r.UniMax(epochs=4)),)),
}
UNCLIPPED = ("tau_5_unclipped", "tau_5_in_the_loss")


def recipe(arm: str, seed: int) -> r.Recipe:
    stage = r.Stage(
        name="base",
        model=MODEL,
        data=r.Data(corpus="corpora/unequal", seq_len=128, shuffle_seed=seed, mixture=ARMS[arm]),
        optimizer=r.AdamW(
            learning_rate=4e-3,
            schedule=r.WSD(warmup=r.Fraction(n=0.05), decay=r.Fraction(n=0.4)),
            clip_norm=None if arm in UNCLIPPED else 1.0,
        ),
        batch_size=16,
        budget="600 steps",
        evaluation=r.Evaluation(every=100, tokens=50_000),
        saving=r.Saving(every=200, keep=1),
        log_every=10,
    )
    return r.Recipe(name=f"{arm}_{seed}", seed=seed, stages=(stage,))


def study() -> Study:
    return Study(
        name="mixtures_repeated",
        question="Where upsampling overfits a small domain, does Cooldown keep what it gains?",
        arms={arm: tuple(recipe(arm, seed) for seed in SEEDS) for arm in ARMS},
        baseline="tau_5",
    )
