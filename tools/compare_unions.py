#!/usr/bin/env python3
"""Do averages of models of parts of the data stand for models of its unions? Prints one JSON line.

    pathways-lite study run configs/ablations/data_ablation.py
    python tools/compare_unions.py configs/ablations/data_ablation.py --picture unions.png

For a finished study whose arms read given domains in their last stages (`GivenWeights`). For every arm of several
domains the models of its single domains, of the same seed, are averaged with equal weights (Na et al. 2024, arXiv
2410.15661) and evaluated on the held-out text of every domain of the corpus. `pearson` and `spearman` are, by held-out
domain, correlations over unions and seeds of the averages' losses with the unions'; `pearson_of_mean_loss` is the same
of the parts' mean losses, which needs no average: what the average has to beat.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from pathways_lite.errors import UserError
from pathways_lite.recipe import GivenWeights, Recipe
from pathways_lite.studies.plan import resolve_study, store_of
from pathways_lite.studies.study import load_study
from pathways_lite.training.init_merging import merge_params
from pathways_lite.training.load import TrainedModel, load_model

Losses = dict[str, float]
"""Nats per token by held-out domain."""


class Union(NamedTuple):
    """What is compared: losses of one union, of the average of its parts, and the mean of their losses."""

    name: str
    of_union: Losses
    of_average: Losses
    mean_of_parts: Losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--out", type=Path, help="directory of the study; default: runs/NAME of the study")
    parser.add_argument("--picture", type=Path, help="write a scatter plot there (PNG or SVG)")
    arguments = parser.parse_args()
    try:
        found = unions(arguments.study, arguments.out)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(json.dumps(row(found)))
    if arguments.picture is not None:
        draw(found, arguments.picture)


def domains_read(recipe: Recipe) -> frozenset[str]:
    """The domains that a recipe's last stage reads."""
    mixture = recipe.stages[-1].data.mixture
    weights = mixture.phases[-1].weights if mixture is not None else None
    if not isinstance(weights, GivenWeights):
        raise UserError(f"the last stage of {recipe.name} reads no given domains; use Given(weights=...)")
    return frozenset(name for name, weight in weights.weights if weight)


def unions(path: Path, out: Path | None) -> list[Union]:
    """All unions of the study whose parts it has. Raises UserError where something is not trained yet."""
    study = resolve_study(load_study(path))
    store = store_of(study, out or Path("runs") / study.name)
    places = {label: identity for identity, node in store.nodes.items() for label in node.is_last}
    runs = {(domains_read(r), r.seed): load_model(store.run(places[label]).path) for label, r in study.recipes.items()}
    alone = {key: losses(model, [model]) for key, model in runs.items()}
    found = []
    for (of, seed), model in runs.items():
        parts = [runs.get((frozenset([domain]), seed)) for domain in sorted(of)]
        if len(of) == 1 or None in parts:
            continue
        name = f"{' + '.join(sorted(of))}, seed {seed}"
        print(f"averaging the parts of {name}", file=sys.stderr)
        each = [alone[frozenset([domain]), seed] for domain in of]
        means = {domain: statistics.fmean(part[domain] for part in each) for domain in each[0]}
        found.append(Union(name, alone[of, seed], losses(model, parts), means))
    if not found:
        raise UserError(f"{path} has no arm of several domains each of which is an arm as well")
    return found


def losses(model: TrainedModel, parts: list[TrainedModel]) -> Losses:
    """Held-out losses of the average of `parts`, on the held-out text of `model`'s stage."""
    params = merge_params(model.components, parts, [1.0] * len(parts))
    return {domain: result.loss for domain, result in model.components.evaluator.evaluate(params).items()}


def row(found: list[Union]) -> dict[str, Any]:
    """All of the line."""
    domains = list(found[0].of_union)
    column = lambda which, domain: np.array([getattr(union, which)[domain] for union in found])  # noqa: E731

    def over_domains(correlation: Any, which: str) -> dict[str, float]:
        return {d: round(float(correlation(column(which, d), column("of_union", d)).statistic), 4) for d in domains}

    higher = {d: round(float(np.mean(column("of_average", d) - column("of_union", d))), 4) for d in domains}
    return {
        "pearson": over_domains(stats.pearsonr, "of_average"),
        "spearman": over_domains(stats.spearmanr, "of_average"),
        "pearson_of_mean_loss": over_domains(stats.pearsonr, "mean_of_parts"),
        "average_minus_union": higher,
        "unions": [union.name for union in found],
        "command": shlex.join(["python", *sys.argv]),
    }


def draw(found: list[Union], path: Path) -> None:
    """Averages against unions, a colour and a marker for each held-out domain."""
    import matplotlib.pyplot as plt

    from pathways_lite.tracking.plot_style import style

    with style("light"):
        figure, axes = plt.subplots(figsize=(6, 5), layout="constrained")
        markers = itertools.cycle("os^Dv<>P")
        for domain, marker in zip(found[0].of_union, markers, strict=False):
            x, y = ([getattr(union, which)[domain] for union in found] for which in ("of_union", "of_average"))
            axes.scatter(x, y, marker=marker, s=28, label=domain, linewidths=0)
        axes.axline((axes.get_xlim()[0],) * 2, slope=1, color="0.6", linewidth=1, zorder=0)
        axes.set(xlabel="held-out loss of a model of the union", ylabel="of the average of models of its parts")
        axes.legend(title="held-out text")
        figure.savefig(path, dpi=160, facecolor="white")


if __name__ == "__main__":
    main()
