"""Laws of what is measured after pretraining: translation, tasks, fine-tuning, concepts, knowledge."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.scaling.law import Law, Parameter, Values, power
from pathways_lite.scaling.losses import Huber, LeastSquares

BLEU = Law(
    name="bleu",
    title="BLEU over pretraining tokens",
    source="Isik et al. 2024, arXiv 2402.04177; holds only where pretraining data are aligned with the task",
    formula="BLEU = (ln(A D^alpha))^beta",
    inputs=("D",),
    target="BLEU",
    parameters=(
        Parameter("A", (2.0, 1e4), center=(("alpha", "D"),)),
        Parameter("alpha", (0.05, 2.0)),
        Parameter("beta", (0.3, 2.0)),
    ),
    predict=lambda v, x: power(jnp.log(v["A"]) + v["alpha"] * jnp.log(x["D"]), v["beta"]),
    link="raw",
    loss=Huber(0.1),
    published=(("an aligned task", (1e-3, 0.5, 1.4)),),
)


def alignment_score(p_source: float, p_target: float) -> float:
    """Return the alignment of pretraining with translation (Isik et al.): P_s P_t + 0.7 P_s + 0.8 P_t."""
    return p_source * p_target + 0.7 * p_source + 0.8 * p_target


PASS_UNTIL = Law(
    name="pass-until",
    title="Task success over parameters",
    source="Hu et al. 2023, arXiv 2310.03262: ln(-ln PU) is linear in ln N",
    formula="PU = exp(-c N^-alpha)",
    inputs=("N",),
    target="PU",
    parameters=(
        Parameter("c", (0.1, 10.0), center=(("-alpha", "N"),)),
        Parameter("alpha", (0.05, 1.0), kind="real"),
    ),
    predict=lambda v, x: jnp.exp(-v["c"] * power(x["N"], -v["alpha"])),
    published=(("a task", (300.0, 0.25)),),
)


def estimate_pass_until(successes: int, draws: int, *, unbiased: bool = True) -> float:
    """Estimate the probability of success from r successes in K draws: (r-1)/(K-1), unbiased for r >= 2, or r/K.

    Sampling stops at the last success. Raises UserError for fewer successes than the estimate needs.
    """
    if successes < (2 if unbiased else 1) or draws < successes:
        raise UserError(
            f"{successes} successes in {draws} draws: the estimate needs at least two, and the last draw is one of them"
        )
    return (successes - 1) / (draws - 1) if unbiased else successes / draws


def _positive(x: Any) -> Any:
    """Return x with zeros as the smallest number, whose powers are zero and have derivatives."""
    return jnp.maximum(x, jnp.finfo(jnp.asarray(x).dtype).tiny)


RECTIFIED = Law(
    name="rectified",
    title="Fine-tuning loss (rectified)",
    source="Lin et al. 2024, arXiv 2402.02314: D_l is what pretraining is worth in fine-tuning examples",
    formula="L = B/(Dl + D^beta) + E",
    inputs=("D_examples",),
    target="L",
    parameters=(
        Parameter("scale", (0.1, 3.0), "B/Dl"),
        Parameter("Dl", (1.0, 1e4)),
        Parameter("beta", (0.2, 1.2)),
        Parameter("E", (0.05, 0.9), in_target_units=True),
    ),
    predict=lambda v, x: v["scale"] * v["Dl"] / (v["Dl"] + power(_positive(x["D_examples"]), v["beta"])) + v["E"],
    zero_inputs=("D_examples",),
    published=(("flan, one model", (3.0, 200.0, 0.6, 1.2)),),
)

CONCEPTS = Law(
    name="concept-frequency",
    title="Zero-shot accuracy over concept frequency",
    source="Udandarao et al. 2024, arXiv 2404.04125; concepts never seen are dropped",
    formula="accuracy = a + b log10 frequency",
    inputs=("frequency",),
    target="accuracy",
    parameters=(Parameter("a", (-0.5, 0.5), kind="real"), Parameter("b", (-0.2, 0.3), kind="real")),
    predict=lambda v, x: v["a"] + v["b"] * jnp.log10(x["frequency"]),
    link="raw",
    loss=LeastSquares(),
    published=(("a classifier", (0.05, 0.11)),),
)

TRANSLATION = Law(
    name="encoder-decoder",
    title="Encoder and decoder",
    source="Ghorbani et al. 2021, arXiv 2109.07740; two variables by its abstract, the form from memory "
    "(exponents 0.18 and 0.31: low confidence)",
    formula="L = a Ne^-pe Nd^-pd + L_inf",
    inputs=("N_encoder", "N_decoder"),
    target="L",
    parameters=(
        Parameter("a", (0.02, 2.0), in_target_units=True, center=(("-pe", "N_encoder"), ("-pd", "N_decoder"))),
        Parameter("pe", (0.05, 0.6), kind="real"),
        Parameter("pd", (0.05, 0.6), kind="real"),
        Parameter("L_inf", (0.05, 0.9), in_target_units=True),
    ),
    predict=lambda v, x: v["a"] * power(x["N_encoder"], -v["pe"]) * power(x["N_decoder"], -v["pd"]) + v["L_inf"],
    published=(("made-up coefficients, exponents from memory", (3e3, 0.18, 0.31, 1.0)),),
)


def optimal_encoder_share(v: Values) -> float:
    """Return the encoder's share of a fixed number of parameters that minimizes the loss: pe/(pe + pd)."""
    return float(v["pe"] / (v["pe"] + v["pd"]))


def knowledge_capacity(parameters: float, exposures: float = 1000, *, junk: float = 0.0) -> float:
    """Return bits of knowledge: 2 per parameter at 1000 exposures, about 1 at 100, linear in the logarithm between.

    Allen-Zhu and Li 2024, arXiv 2404.05405; int8 keeps them. Raises UserError outside what was measured: exposures
    outside 100 to 1000, and junk data, which reduce the capacity by an amount without a formula.
    """
    if not 100 <= exposures <= 1000:
        raise UserError(f"{exposures:g} exposures were not measured; the law holds from 100 to 1000")
    if junk:
        raise UserError(
            "no formula is known for how much junk data reduce the capacity; use junk=0, and tag the good data's domain"
        )
    return parameters * (1 + math.log10(exposures / 100))


def spearman_by_stage(compute: np.ndarray, stages: dict[str, np.ndarray]) -> dict[str, float]:
    """Return each stage's rank correlation with compute, from loss to accuracy; it falls (Schaeffer et al.)."""
    from scipy import stats

    return {name: float(stats.spearmanr(compute, values).statistic) for name, values in stages.items()}
