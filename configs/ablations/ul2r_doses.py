"""How much UL2R, or another denoiser, teaches a causal model to fill gaps, and what does it cost in causal loss?

    python tools/lexicon_text.py lexicon.jsonl --documents 95000
    pathways-lite data build corpora/lexicon_and_python lexicon.jsonl python: --tokenizer bytes --held-out 0.02
    pathways-lite study run configs/ablations/ul2r_doses.py --jobs 2       # after ul2r_doses_rates.py, from its base
    pathways-lite study evaluate configs/ablations/ul2r_doses.py --tokens 150000
    pathways-lite study report configs/ablations/ul2r_doses.py

Cost: 722 TFLOPs, 60 runs that share 3 bases of 90k parameters; about 3 hours on 2 idle cores.

Expected result: not measured yet.

Criterion, fixed before the study ran: an arm has learned to fill gaps at no cost if (i) its causal loss, behind the
opener that it reads best, is less than 0.01 nats per byte above the causal arm's of the same dose, and (ii) letters of
the lexicon's text in gaps as its objective makes them cost at least 0.1 nats less than the same letters read from left
to right by the same model; both with the whole 95 % interval over three seeds (Student's t). (ii) alone says that
infilling has appeared. `single` compares all arms on equal gaps.

Lexicon: documents of 30 words, each one of 64 random words of 6 letters. Nobody can do better than 0.594 nats per byte
from left to right, and for gaps of 2 or 3 letters 0.59 from left to right and 0.00 given the text around them (of 8:
0.593 and 0.259; `tools/lexicon_text.py` computes them). Python's sources and documentation are trained on and shown
beside it. Doses are fractions of a finished base's tokens. X denoisers mask spans of 8, as 32 would be one span in 256.
"""

from pathways_lite.recipe import (
    WSD,
    AdamW,
    Causal,
    Continue,
    Cosine,
    Data,
    Denoisers,
    Evaluation,
    FillInTheMiddle,
    Fraction,
    Model,
    PrefixLM,
    Recipe,
    Saving,
    SpanCorruption,
    Stage,
    WeightedDenoiser,
)
from pathways_lite.studies import Claim, Study

SEEDS = (0, 1, 2)
LEXICON, CODE = "infilling_by_domain.lexicon", "infilling_by_domain.code"
BASE_TOKENS = 150_000_000
DOSES = {"0p3": 0.003, "1": 0.01, "3": 0.03, "10": 0.1}  # by the end of the arm's name, in percent
RATES = {"causal": 1e-3, "ul2r": 1e-3, "ul2r_causal": 1e-3, "regular": 1e-3, "fim": 1e-3}
MODEL = Model(d_model=64, n_layers=2, n_heads=4, head_dim=16, d_ff=128, vocab_size=320, dtype="float32", init="normal")
REGULAR = SpanCorruption(rate=0.15, mean_span=3, mode="nlu")
LONG, DENSE = SpanCorruption(rate=0.15, mean_span=8, mode="nlg"), SpanCorruption(rate=0.5, mean_span=3, mode="nlg")
UL2R_MEMBERS = {PrefixLM(mode="s2s"): 4, LONG: 1, DENSE: 1, REGULAR: 2}


def mixture(members: dict) -> Denoisers:
    return Denoisers(members=tuple(WeightedDenoiser(weight=w, denoiser=denoiser) for denoiser, w in members.items()))


OBJECTIVES = {
    "causal": Causal(),
    "ul2r": mixture(UL2R_MEMBERS),
    "ul2r_causal": mixture({**UL2R_MEMBERS, Causal(): 2}),  # a fifth of the examples
    "regular": REGULAR,
    "fim": FillInTheMiddle(rate=0.5),
}


def recipe(arm: str, dose: str, seed: int, rate: float) -> Recipe:
    common = {"model": MODEL, "data": Data(corpus="corpora/lexicon_and_python", seq_len=256, shuffle_seed=seed)}
    common |= {"batch_size": 32, "saving": Saving(every=1000, keep=1), "log_every": 50}
    common |= {"evaluation": Evaluation(every=500, tokens=20_000)}
    finished = AdamW(learning_rate=4e-3, schedule=WSD(warmup=Fraction(n=0.02), decay=Fraction(n=0.2)))
    base = Stage(name="base", optimizer=finished, budget=f"{BASE_TOKENS} tokens", **common)
    falling = AdamW(learning_rate=rate, schedule=Cosine(warmup=Fraction(n=0.05), end=0.01))
    dosed = {"objective": OBJECTIVES[arm], "budget": f"{round(BASE_TOKENS * DOSES[dose])} tokens"}
    more = Stage(name="more", start=Continue(), optimizer=falling, **dosed, **common)
    return Recipe(name=f"{arm}_{dose}_{seed}", seed=seed, stages=(base, more))


def study() -> Study:
    arms = {f"{arm}_{dose}": (arm, dose) for dose in DOSES for arm in OBJECTIVES}
    return Study(
        name="ul2r_doses",
        question="How much of which denoiser teaches a causal model to fill gaps, at what cost in causal loss?",
        arms={name: tuple(recipe(*arm, seed, RATES[arm[0]]) for seed in SEEDS) for name, arm in arms.items()},
        baseline="causal_10",
        baselines={name: f"causal_{dose}" for name, (_, dose) in arms.items()},
        criterion=(
            Claim(measure="openers.best.loss", below=0.01, compared=True),
            Claim(measure=f"{LEXICON}.as_trained.difference", below=-0.1),
        ),
        measures=(
            *("openers.best.first_16_loss", "openers.best.rest_loss"),
            *(f"{LEXICON}.as_trained.{key}" for key in ("tokens", "content_loss", "format_loss", "exact")),
            *(f"{domain}.{task}.difference" for domain in (LEXICON, CODE) for task in ("as_trained", "single")),
        ),
    )
