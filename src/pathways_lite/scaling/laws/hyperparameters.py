"""Hyperparameters of a run: learning rate and batch size by the Step Law."""

from __future__ import annotations

from dataclasses import replace

from pathways_lite.errors import UserError
from pathways_lite.scaling.law import Law, Parameter, power
from pathways_lite.scaling.losses import LeastSquares

# Li et al. 2025, arXiv 2503.04715: lr = c N^a D^b and batch = c D^b (in tokens), N without embeddings.
STEP_LEARNING_RATE_VALUES = (1.79, -0.713, 0.307)
STEP_BATCH_VALUES = (0.58, 0.571)

STEP_LEARNING_RATE = Law(
    name="step-learning-rate",
    title="Step Law, learning rate",
    source="Li et al. 2025, arXiv 2503.04715; N without embeddings, minimum learning rate 1e-5",
    formula="lr = c N^a D^b",
    inputs=("N", "D"),
    target="lr",
    parameters=(
        Parameter("c", (0.1, 10.0), in_target_units=True, center=(("a", "N"), ("b", "D"))),
        Parameter("a", (-1.0, 0.0), kind="real"),
        Parameter("b", (0.0, 1.0), kind="real"),
    ),
    predict=lambda v, x: v["c"] * power(x["N"], v["a"]) * power(x["D"], v["b"]),
    loss=LeastSquares(),
    published=(("Li et al.", STEP_LEARNING_RATE_VALUES),),
)

STEP_BATCH = Law(
    name="step-batch",
    title="Step Law, batch size",
    source="Li et al. 2025, arXiv 2503.04715; the batch in tokens",
    formula="B = c D^b",
    inputs=("D",),
    target="B",
    parameters=(
        Parameter("c", (0.1, 10.0), in_target_units=True, center=(("b", "D"),)),
        Parameter("b", (0.0, 1.0), kind="real"),
    ),
    predict=lambda v, x: v["c"] * power(x["D"], v["b"]),
    loss=LeastSquares(),
    published=(("Li et al.", STEP_BATCH_VALUES),),
)

# Bergsma et al. 2025, arXiv 2505.13738: maximal update parametrization, SlimPajama, 111M to 3.3B parameters.
_POWER_LINES = "Bergsma et al. 2025 (Power Lines), arXiv 2505.13738"

ADAMW_TIMESCALE = Law(
    name="adamw-timescale",
    title="AdamW timescale over tokens per parameter",
    source=f"{_POWER_LINES}: tau = B/(lr weight_decay D); the exponent as published, the coefficient from memory",
    formula="tau = c M^m, M = D/N",
    inputs=("M",),
    target="tau",
    parameters=(
        Parameter("c", (0.1, 10.0), in_target_units=True, center=(("m", "M"),)),
        Parameter("m", (-1.0, 0.0), kind="real"),
    ),
    predict=lambda v, x: v["c"] * power(x["M"], v["m"]),
    loss=LeastSquares(),
    published=(("Bergsma et al.", (1.084, -0.527)),),
)

OPTIMAL_BATCH = replace(
    STEP_BATCH,
    name="optimal-batch",
    title="Batch with the lowest loss, over tokens",
    source=f"{_POWER_LINES}; the exponent as published, the coefficient from memory (sequences of 2048 tokens there)",
    published=(("Bergsma et al.", (0.0306 * 2048, 0.383)),),
)

CRITICAL_BATCH_OF_TOKENS = replace(
    STEP_BATCH,
    name="critical-batch-tokens",
    title="Critical batch, over tokens",
    source=f"{_POWER_LINES}; the exponent as published, the coefficient from memory (sequences of 2048 tokens there)",
    published=(("Bergsma et al.", (0.0471 * 2048, 0.462)),),
)


def weight_decay_of_timescale(
    N: float, D: float, B: float, lr: float, values: tuple[float, float] | None = None
) -> float:
    """Return AdamW's weight decay for a batch of B tokens: B/(lr D tau), tau = c (D/N)^m.

    `values` are c and m, fitted to sweeps of one's own; None: those of Bergsma et al. Raises UserError for numbers that
    are not positive.
    """
    if min(N, D, B, lr) <= 0:
        raise UserError(f"N={N:g}, D={D:g}, B={B:g}, lr={lr:g}: all must be positive")
    c, m = values or ADAMW_TIMESCALE.published[0][1]
    return B / (lr * D * c * (D / N) ** m)


def step_law(N: float, D: float) -> dict[str, float]:
    """Return the peak learning rate and the batch in tokens for N parameters (without embeddings) and D tokens.

    Li et al. 2025. Raises UserError if N or D is not positive.
    """
    if not (N > 0 and D > 0):
        raise UserError(f"N={N:g}, D={D:g}: give positive numbers of parameters and tokens, e.g. N=1e9 D=1e11")
    (lr_c, lr_a, lr_b), (batch_c, batch_b) = STEP_LEARNING_RATE_VALUES, STEP_BATCH_VALUES
    return {"lr": lr_c * N**lr_a * D**lr_b, "B": batch_c * D**batch_b}
