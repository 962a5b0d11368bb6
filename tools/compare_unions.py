#!/usr/bin/env python3
"""Compare averages of models of single domains with models of unions of domains. Prints one JSON line.

    pathways-lite study run configs/ablations/data_ablation.py
    python tools/compare_unions.py configs/ablations/data_ablation.py --picture unions.png

The study must be finished, and its arms must read given domains in their last stages (`GivenWeights`). For every arm
with several domains the models of its single domains with the same seed are averaged with equal weights (Na et al.
2024, arXiv 2410.15661) and evaluated on the held-out text of every domain of the corpus. `pearson` and `spearman` are,
by held-out domain, correlations over unions and seeds of the averages' losses with the unions' losses.
`pearson_of_mean_loss` is the same for the mean of the parts' losses, a baseline that needs no averaged model.
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
from pathways_lite.studies.plan import resolve_study, study_store
from pathways_lite.studies.study import load_study
from pathways_lite.training.init_merging import merge_params
from pathways_lite.training.load import TrainedModel, load_model

Losses = dict[str, float]
"""Nats per token by held-out domain."""


class Union(NamedTuple):
    """Losses of the model of one union, of the average of its parts' models, and the mean of the parts' losses."""

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
        results = unions(arguments.study, arguments.out)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(json.dumps(row(results)))
    if arguments.picture is not None:
        draw(results, arguments.picture)


def domains_read(recipe: Recipe) -> frozenset[str]:
    """Return the domains that a recipe's last stage reads."""
    mixture = recipe.stages[-1].data.mixture
    weights = mixture.phases[-1].weights if mixture is not None else None
    if not isinstance(weights, GivenWeights):
        raise UserError(f"the last stage of {recipe.name} reads no given domains; use GivenWeights(weights=...)")
    return frozenset(name for name, weight in weights.weights if weight)


def unions(path: Path, out: Path | None) -> list[Union]:
    """Evaluate all unions of the study whose parts are arms too. Raises UserError if a node is not trained yet."""
    study = resolve_study(load_study(path))
    store = study_store(study, out or Path("runs") / study.name)
    last_nodes = {label: identity for identity, node in store.nodes.items() for label in node.is_last}
    runs = {
        (domains_read(r), r.seed): load_model(store.run_directory(last_nodes[label]).path)
        for label, r in study.recipes.items()
    }
    own_losses = {key: losses(model, [model]) for key, model in runs.items()}
    results = []
    for (domains, seed), model in runs.items():
        parts = [(frozenset([domain]), seed) for domain in sorted(domains)]
        if len(domains) == 1 or not set(parts) <= runs.keys():
            continue
        name = f"{' + '.join(sorted(domains))}, seed {seed}"
        print(f"averaging the parts of {name}", file=sys.stderr)
        part_losses = [own_losses[frozenset([domain]), seed] for domain in domains]
        means = {domain: statistics.fmean(part[domain] for part in part_losses) for domain in part_losses[0]}
        results.append(Union(name, own_losses[domains, seed], losses(model, [runs[part] for part in parts]), means))
    if not results:
        raise UserError(f"{path} has no arm of several domains each of which is an arm as well")
    return results


def losses(model: TrainedModel, models: list[TrainedModel]) -> Losses:
    """Return the losses of the average of `models` on the held-out text of `model`'s stage."""
    params = merge_params(model.components, models, [1.0] * len(models))
    return {domain: result.loss for domain, result in model.components.evaluator.evaluate(params).items()}


def row(results: list[Union]) -> dict[str, Any]:
    """Return the contents of the JSON line."""
    domains = list(results[0].of_union)
    column = lambda field, domain: np.array([getattr(union, field)[domain] for union in results])  # noqa: E731

    def over_domains(correlation: Any, field: str) -> dict[str, float]:
        return {d: round(float(correlation(column(field, d), column("of_union", d)).statistic), 4) for d in domains}

    differences = {d: round(float(np.mean(column("of_average", d) - column("of_union", d))), 4) for d in domains}
    return {
        "pearson": over_domains(stats.pearsonr, "of_average"),
        "spearman": over_domains(stats.spearmanr, "of_average"),
        "pearson_of_mean_loss": over_domains(stats.pearsonr, "mean_of_parts"),
        "average_minus_union": differences,
        "unions": [union.name for union in results],
        "command": shlex.join(["python", *sys.argv]),
    }


def draw(results: list[Union], path: Path) -> None:
    """Plot averages against unions, with a color and a marker per held-out domain."""
    import matplotlib.pyplot as plt

    from pathways_lite.tracking.plot_style import style

    with style("light"):
        figure, axes = plt.subplots(figsize=(6, 5), layout="constrained")
        markers = itertools.cycle("os^Dv<>P")
        for domain, marker in zip(results[0].of_union, markers, strict=False):
            x, y = ([getattr(union, field)[domain] for union in results] for field in ("of_union", "of_average"))
            axes.scatter(x, y, marker=marker, s=28, label=domain, linewidths=0)
        axes.axline((axes.get_xlim()[0],) * 2, slope=1, color="0.6", linewidth=1, zorder=0)
        axes.set(xlabel="held-out loss of a model of the union", ylabel="of the average of models of its parts")
        axes.legend(title="held-out text")
        figure.savefig(path, dpi=160, facecolor="white")


if __name__ == "__main__":
    main()
