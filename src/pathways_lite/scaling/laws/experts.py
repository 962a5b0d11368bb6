"""Mixtures of experts over active parameters, tokens and experts: the joint law of Ludziejewski et al. 2025."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from pathways_lite.scaling.law import Columns, Law, Parameter, Values
from pathways_lite.scaling.laws.sparse import saturated_experts


def joint_loss(v: Values, x: Columns) -> Any:
    """L = a Ê^delta N^(alpha + gamma ln Ê) + b Ê^omega D^(beta + zeta ln Ê) + c; N active parameters, E experts."""
    log_e = jnp.log(saturated_experts(x["experts"], v["Estart"], v["Estart"] * v["Eratio"]))
    log_n, log_d = jnp.log(x["N_active"]), jnp.log(x["D"])
    size_term = v["a"] * jnp.exp(v["delta"] * log_e + (v["alpha"] + v["gamma"] * log_e) * log_n)
    data_term = v["b"] * jnp.exp(v["omega"] * log_e + (v["beta"] + v["zeta"] * log_e) * log_d)
    return size_term + data_term + v["c"]


JOINT_EXPERTS = Law(
    name="moe",
    title="Mixture of experts over active parameters and tokens",
    source="Ludziejewski et al. 2025, arXiv 2502.05172 (the form as in its abstract page; its constants were not seen)",
    formula="L = a Ê^delta N^(alpha + gamma ln Ê) + b Ê^omega D^(beta + zeta ln Ê) + c, N active, Emax = Estart Eratio",
    inputs=("N_active", "D", "experts"),
    target="L",
    parameters=(
        Parameter("a", (0.02, 2.0), center=(("alpha", "N_active"),)),
        Parameter("alpha", (-0.6, -0.1), kind="real"),
        Parameter("delta", (-0.3, 0.3), kind="real"),
        Parameter("gamma", (-0.02, 0.02), kind="real"),
        Parameter("b", (0.02, 2.0), center=(("beta", "D"),)),
        Parameter("beta", (-0.6, -0.1), kind="real"),
        Parameter("omega", (-0.3, 0.3), kind="real"),
        Parameter("zeta", (-0.02, 0.02), kind="real"),
        Parameter("c", (0.2, 2.5), "nats"),
        Parameter("Estart", (1.2, 4.0)),
        Parameter("Eratio", (30.0, 400.0)),
    ),
    predict=joint_loss,
    published=(("made-up runs", (35.0, -0.19, 0.23, -0.01, 100.0, -0.22, -0.3, 0.008, 1.2, 2.0, 150.0)),),
)
