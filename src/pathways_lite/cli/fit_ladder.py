"""`pathways-lite fit ladder`: predict a larger run from a ladder of small ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pathways_lite.cli.common import AsJson, print_json
from pathways_lite.intervals import plain
from pathways_lite.paths import local_path

if TYPE_CHECKING:
    from pathways_lite.recipe import Recipe


def ladder(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="LADDER",
            parser=local_path,
            help="a Python file with study(), the rungs, and recipe(), the larger run",
        ),
    ],
    law: Annotated[str, typer.Option(help="a law's name; `fit laws` lists them")] = "chinchilla",
    out: Annotated[
        Path | None, typer.Option(parser=local_path, help="directory of the study; default: runs/NAME of the study")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(parser=local_path, help="directory of the larger run; default: runs/NAME of the recipe"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fit a law to the trained rungs, and predict the loss of the recipe, whether it is trained or not.

    Writes ladder.json (for `fit predict` and `fit optimal`), ladder.html and ladder.png into the study's directory.

    Example: `pathways-lite study run configs/ladders/toy.py`, then `pathways-lite fit ladder configs/ladders/toy.py`
    """
    from pathways_lite.errors import UserError
    from pathways_lite.output_lock import lock_file
    from pathways_lite.recipe import load_recipe
    from pathways_lite.scaling.ladder import fit_ladder
    from pathways_lite.scaling.laws.registry import find_law
    from pathways_lite.scaling.runs_table import runs_table
    from pathways_lite.studies.plan import resolve_study, study_store
    from pathways_lite.studies.study import load_study
    from pathways_lite.training.resolve import resolve_recipe

    study, target = load_study(file), resolve_recipe(load_recipe(file))
    directory = out or Path("runs") / study.name
    store = study_store(resolve_study(study), directory)
    rungs = store.finished_runs()
    if not rungs:
        raise UserError(f"no rung of {study.name} is trained; train them with `pathways-lite study run {file}`")
    fitted = fit_ladder(
        find_law(law),
        runs_table(rungs, final=True),
        _law_inputs(target),
        measured=_measured_loss(target, run or Path("runs") / target.name),
    )
    from pathways_lite.scaling.ladder_report import write_ladder_report

    with lock_file(directory / "ladder.json"):
        files = write_ladder_report(fitted, directory)
    sentences = [*fitted.sentences(), *fitted.fit.notes]
    if as_json:
        facts = {"trained": len(rungs), "rungs": len(study.recipes), "law": fitted.fit.law.name}
        print_json({**facts, "values": fitted.fit.values, "sentences": sentences, "files": files})
        return
    typer.echo(f"{len(rungs)} of {len(study.recipes)} rungs are trained. {fitted.fit.law.formula}:")
    typer.echo(", ".join(f"{name} {plain(value, '.4g')}" for name, value in fitted.fit.values.items()))
    for line in (*sentences, *files):
        typer.echo(line)


def _law_inputs(recipe: Recipe) -> dict[str, float]:
    """Return the inputs of laws for a run, named as the columns of `runs table`."""
    from pathways_lite.models.accounting import parameter_count
    from pathways_lite.training.stage import StageSpec

    specs = [StageSpec(recipe, index) for index in range(len(recipe.stages))]
    timelines = [spec.timeline for spec in specs]
    D = sum(timeline.tokens_before(timeline.total_steps) for timeline in timelines)
    active = sum(timeline.active_parameter_tokens_before(timeline.total_steps) for timeline in timelines)
    return {
        "N": timelines[-1].active_parameters,
        "N_non_embedding": parameter_count(recipe.stages[-1].model, embedding=False),
        "N_active": timelines[-1].active_parameters_at(timelines[-1].total_steps),
        "N_average": active / D,
        "D": D,
        "U": min(D, specs[-1].corpus_tokens),
        "C": sum(timeline.flops_before(timeline.total_steps) for timeline in timelines),
        "C_sparse": sum(timeline.sparse_flops_before(timeline.total_steps) for timeline in timelines),
    }


def _measured_loss(recipe: Recipe, path: Path) -> float | None:
    """Return the final loss of the run in `path` if it is this recipe's and finished, else None."""
    from pathways_lite.recipe import stage_identity
    from pathways_lite.run_directory import RunDirectory
    from pathways_lite.scaling.runs_table import runs_table

    summary = RunDirectory(path).stage(recipe.stages[-1].name).summary or {}
    if summary.get("identity") != stage_identity(recipe, len(recipe.stages) - 1):
        return None
    return float(runs_table([path], final=True)["L"][0])
