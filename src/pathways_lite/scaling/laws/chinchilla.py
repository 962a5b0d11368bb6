"""Loss from parameters and tokens: Hoffmann et al. 2022 (arXiv 2203.15556), approach 3, and its optimum."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pathways_lite.errors import UserError
from pathways_lite.scaling.law import Columns, Law, Parameter, Values, power


def loss(v: Values, x: Columns) -> Any:
    """L(N, D) = E + A/N^alpha + B/D^beta (equation 2). N parameters, D tokens, L nats per token."""
    return v["E"] + v["A"] * power(x["N"], -v["alpha"]) + v["B"] * power(x["D"], -v["beta"])


def optimal(v: Values, C: Any) -> dict[str, Any]:
    """Return the allocation that minimizes the loss at C = 6ND FLOPs (equation 4), and that loss."""
    G = (v["alpha"] * v["A"] / (v["beta"] * v["B"])) ** (1 / (v["alpha"] + v["beta"]))
    N = G * (C / 6) ** (v["beta"] / (v["alpha"] + v["beta"]))
    D = (C / 6) ** (v["alpha"] / (v["alpha"] + v["beta"])) / G
    return {"N": N, "D": D, "tokens_per_parameter": D / N, "L": loss(v, {"N": N, "D": D})}


PARAMETERS = (
    Parameter("A", (0.02, 2.0), "nats", center=(("-alpha", "N"),)),
    Parameter("B", (0.02, 2.0), "nats", center=(("-beta", "D"),)),
    Parameter("E", (0.2, 2.5), "nats"),
    Parameter("alpha", (0.1, 1.0), kind="real"),
    Parameter("beta", (0.1, 1.0), kind="real"),
)

CHINCHILLA = Law(
    name="chinchilla",
    title="Chinchilla, approach 3",
    source="Hoffmann et al. 2022, arXiv 2203.15556, section 3.3; Besiroglu et al. 2024, arXiv 2404.10102",
    formula="L = E + A/N^alpha + B/D^beta",
    inputs=("N", "D"),
    target="L",
    parameters=PARAMETERS,
    predict=loss,
    optimal=optimal,
    published=(
        ("Hoffmann et al., as printed", (406.4, 410.7, 1.69, 0.34, 0.28)),
        ("Hoffmann et al., unrounded", (406.39900, 410.72286, 1.69337368, 0.33917084, 0.2849083)),
        ("Besiroglu et al.", (482.01, 2085.43, 1.8172, 0.3478, 0.3658)),
    ),
)


@functools.cache
def features_law(names: tuple[str, ...]) -> Law:
    """Build the Chinchilla law with a power law of every column of `names` beside those of N and D.

    L = E + A/N^alpha + B/D^beta + sum_j c_j/x_j^g_j, as McLeish et al. 2025 do with width and depth. The law's name is
    like "features:width,depth". Raises UserError for no name, and for N, D and duplicates.
    """
    if not names or len(set(names)) < len(names) or {"N", "D", "L"} & set(names) or any("/" in n for n in names):
        raise UserError(
            f"features are different columns besides N, D and L, without slashes; found {', '.join(names) or 'none'}"
        )

    def predict(v: Values, x: Columns) -> Any:
        return loss(v, x) + sum(v[f"c_{name}"] * power(x[name], -v[f"g_{name}"]) for name in names)

    extra = [
        parameter
        for name in names
        for parameter in (
            Parameter(f"c_{name}", (0.005, 1.0), "nats", center=((f"-g_{name}", name),)),
            Parameter(f"g_{name}", (0.1, 1.0), kind="real"),
        )
    ]
    return replace(
        CHINCHILLA,
        name=f"features:{','.join(names)}",
        title=f"Chinchilla with {', '.join(names)}",
        source="McLeish et al. 2025 (Gemstones), arXiv 2502.06857, for width and depth; nested in Chinchilla",
        formula="L = E + A/N^alpha + B/D^beta + sum_j c_j/x_j^g_j",
        inputs=("N", "D", *names),
        parameters=(*PARAMETERS, *extra),
        predict=predict,
        optimal=None,
        published=(),
    )


def with_features(law: Law, names: Sequence[str]) -> Law:
    """Return the law with features. Raises UserError for a law other than Chinchilla's."""
    if names and law is not CHINCHILLA:
        raise UserError(f"features are added to chinchilla, not to {law.name}")
    return features_law(tuple(names)) if names else law
