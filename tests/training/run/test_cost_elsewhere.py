"""What an imported model had cost elsewhere is unknown or stated, and never nothing, wherever FLOPs are told."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from helpers.hf_goldens import write_published
from helpers.run_helpers import add_stage, compile_once, describe, log_bytes, run, stub_slow_parts
from pathways_lite.cli.main import app
from pathways_lite.comparison.compare import Arm
from pathways_lite.comparison.curves import Curve, read_curve
from pathways_lite.comparison.metric import Metric
from pathways_lite.comparison.table import Results
from pathways_lite.conversion.grow_and_merge import grow_offline, merge_offline
from pathways_lite.conversion.hf_import import import_hf
from pathways_lite.errors import UserError
from pathways_lite.models.accounting import parameter_count
from pathways_lite.recipe import Grow, Merge, Model, Recipe, Reference, Restore, Reweighting, Stack, Steps, load_recipe
from pathways_lite.scaling.runs_table import runs_table
from pathways_lite.tracking.report import render
from pathways_lite.tracking.run_data import read_run
from pathways_lite.training.load import TrainedModel, load_model

STATED = 10**9  # tokens
STEPS = 4


def quiet(line: str) -> None: ...


def shown(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "250"})
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainedModel]:
    """One published model, imported without and with the tokens that it was trained on."""
    root = tmp_path_factory.mktemp("models")
    source = write_published(root / "hf", "smollm", vocab_size=300)
    tokens = {"unknown": None, "stated": STATED}
    return {name: load_model(import_hf(source, root / name, n, quiet)) for name, n in tokens.items()}


def continuing(recipe: Recipe, model: Model, **fields: Any) -> Recipe:
    """The tiny recipe's stages of another model and start."""
    changes = {"model": model.model_copy(update={"dtype": "float32"}), "budget": Steps(n=STEPS), **fields}
    return recipe.model_copy(update={"stages": (recipe.stages[0].model_copy(update=changes),)})


@pytest.fixture(scope="module")
def runs(
    recipe_file: Path, models: dict[str, TrainedModel], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Runs of two stages that start from each import, and from scratch."""
    root = tmp_path_factory.mktemp("runs")
    model = models["unknown"].stage.model
    with pytest.MonkeyPatch.context() as patch:
        compile_once(patch)
        stub_slow_parts(patch)
        for name, imported in (*models.items(), ("scratch", None)):
            start = {} if imported is None else {"start": Restore(path=str(imported.path))}
            assert run(add_stage(continuing(load_recipe(recipe_file), model, **start)), root / name) == 0
    return {name: root / name for name in (*models, "scratch")}


def test_the_account_of_an_import_goes_on_along_the_chain(
    models: dict[str, TrainedModel], runs: dict[str, Path]
) -> None:
    parameters = parameter_count(models["stated"].stage.model)
    for name, before in (("unknown", 0), ("stated", 6 * parameters * STATED)):
        rows = [json.loads(line) for line in log_bytes(runs[name], "more").splitlines()]
        assert {row["cost_elsewhere"] for row in rows} == {name}
        stage = json.loads((runs[name] / "more" / "ledger.json").read_text())
        assert "cost_elsewhere" not in stage["stage"]
        assert stage["total"]["cost_elsewhere"] == name
        assert stage["total"]["flops"] == before + 2 * stage["stage"]["flops"]
        assert load_model(runs[name]).cost.cost_elsewhere == name
    assert b"cost_elsewhere" not in log_bytes(runs["scratch"], "more")
    assert load_model(runs["scratch"]).cost.cost_elsewhere is None


def test_an_import_of_an_earlier_version_is_not_free_either(models: dict[str, TrainedModel]) -> None:
    model = models["unknown"]
    for account in (model.manifest.meta["ledger"]["total"], model.manifest.meta["inherited"]):
        assert account.pop("cost_elsewhere") == "unknown"
    try:
        assert model.cost.cost_elsewhere == model.inherited.cost_elsewhere == "unknown"
    finally:
        for account in (model.manifest.meta["ledger"]["total"], model.manifest.meta["inherited"]):
            account["cost_elsewhere"] = "unknown"


def test_what_is_made_of_an_import_inherits_its_account(
    models: dict[str, TrainedModel], runs: dict[str, Path], tmp_path: Path
) -> None:
    imported, trained = models["unknown"], load_model(runs["unknown"])
    deeper = imported.stage.model.model_copy(update={"n_layers": 2 * imported.stage.model.n_layers})
    grown = load_model(grow_offline(imported, Grow(operator=Stack()), deeper, tmp_path / "grown", quiet))
    stated = models["stated"]
    mixed = load_model(merge_offline([stated, imported], [1, 1], tmp_path / "mixed", quiet))
    known = load_model(merge_offline([stated, stated], [1, 1], tmp_path / "known", quiet))
    assert [m.cost.cost_elsewhere for m in (trained, grown, mixed, known)] == ["unknown"] * 3 + ["stated"]


@pytest.mark.parametrize("how", ["merge", "grow", "reference"])
def test_a_stage_that_starts_from_or_refers_to_one_inherits_it(
    how: str, models: dict[str, TrainedModel], recipe: Recipe, tmp_path: Path
) -> None:
    model, path = models["unknown"].stage.model, str(models["unknown"].path)
    fields: dict[str, Any] = {"start": Restore(path=path), "budget": Steps(n=1)}
    if how == "merge":
        fields["start"] = Merge(checkpoints=(path, path))
    if how == "reference":
        del fields["start"]
        fields["reweighting"] = Reweighting(reference=Reference(path=path))
    chain = continuing(recipe, model, **fields)
    if how == "grow":
        deeper = model.model_copy(update={"n_layers": 2 * model.n_layers, "dtype": "float32"})
        chain = add_stage(chain, start=Grow(operator=Stack()))
        chain = chain.model_copy(
            update={"stages": (chain.stages[0], chain.stages[1].model_copy(update={"model": deeper}))}
        )
    assert "at a cost that is unknown" in describe(chain)
    assert run(chain, tmp_path / "run") == 0
    assert load_model(tmp_path / "run").cost.cost_elsewhere == "unknown"


def _falling(curve: Curve, start: float) -> Curve:
    """Return a curve of three evaluations with the same origin, so that there is a speedup."""
    shares, loss = np.array([0.25, 0.5, 1.0]), start - np.array([0.0, 0.5, 1.0])
    spent = dict.fromkeys(("flops", "tokens", "seconds"), shares * 1000000000.0)
    return replace(curve, loss=loss, **spent)


def test_curves_and_comparisons_say_what_their_flops_are(runs: dict[str, Path]) -> None:
    arms = {name: Arm(name, (read_curve(read_run(path), Metric(), name),)) for name, path in runs.items()}
    results = Results.compare_arms([arms["scratch"], arms["unknown"]], "scratch", Metric())
    (comparison,) = results.comparisons
    assert (comparison.cost_elsewhere, comparison.counts_all) == ("unknown", False)
    falling = [
        Arm(name, tuple(_falling(curve, start) for curve in arms[name].curves))
        for name, start in (("scratch", 5.0), ("unknown", 4.8))
    ]
    assert Results.compare_arms(falling, "scratch", Metric()).rows()[1][5].endswith("in FLOPs here")
    text = " ".join(results.notes())
    assert "What unknown started from was trained elsewhere, at a cost that is unknown and not free" in text
    assert "no speedup in total FLOPs is known" in text
    assert "FLOPs spent here of scratch over those of unknown" in text

    same = Results.compare_arms([arms["unknown"], Arm("other", arms["unknown"].curves)], "unknown", Metric())
    assert "fair only if they start from the same model" in " ".join(same.notes())
    known = Results.compare_arms([arms["scratch"], Arm("other", arms["scratch"].curves)], "scratch", Metric())
    assert "here" not in " ".join([*known.notes(), *known.rows()[1]])
    with pytest.raises(
        UserError, match=r"of which training elsewhere was stated, stated begins only after all of the .*FLOPs of "
    ):
        Results.compare_arms([arms["scratch"], arms["stated"]], "scratch", Metric())
    with pytest.raises(UserError, match="import that model with --tokens N too"):
        Results.compare_arms([arms["unknown"], arms["stated"]], "unknown", Metric())


def test_commands_say_it(runs: dict[str, Path]) -> None:
    root = runs["unknown"].parent
    listed = shown("runs", root)
    assert " + unknown " in listed
    assert ", stated " in listed
    assert "which is not free; FLOPs and tokens are those spent here" in listed
    assert "not free" not in shown("runs", runs["scratch"])
    rows = [json.loads(line) for line in CliRunner().invoke(app, ["runs", str(root), "--json"]).output.splitlines()]
    assert {Path(row["run"]).name: row.get("cost_elsewhere") for row in rows} == {
        "unknown": "unknown", "stated": "stated", "scratch": None
    }  # fmt: skip
    assert " + unknown " in shown("inspect", runs["unknown"])
    compared = json.loads(shown("runs", "compare", runs["scratch"], runs["unknown"], "--json"))
    assert [arm["cost_elsewhere"] for arm in compared["arms"]] == [None, "unknown"]
    assert "FLOPs spent here" in shown("runs", "compare", runs["scratch"], runs["unknown"])


def test_the_page_of_a_run_says_it(runs: dict[str, Path]) -> None:
    assert "FLOPs + unknown" in render(read_run(runs["unknown"]))
    assert "FLOPs, stated" in render(read_run(runs["stated"]))
    assert "FLOPs + unknown" not in render(read_run(runs["scratch"]))
    assert "FLOPs, stated" not in render(read_run(runs["scratch"]))


def test_tables_for_laws_leave_open_what_is_unknown(runs: dict[str, Path], tmp_path: Path) -> None:
    table = runs_table(list(runs.values()), final=True)
    assert table["cost_elsewhere"].tolist() == ["unknown", "stated", ""]
    for column in ("D", "C", "C_sparse", "N_average", "U"):
        assert np.isnan(table[column][0]), column
    assert np.isfinite(table["C"][1:]).all()
    assert (table["C_stage"] > 0).all()

    arguments = ["fit", "power", str(runs["unknown"].parent), "x=C", "y=L"]
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, UserError)
    assert "so x is unknown" in " ".join(str(refused.exception).split())


def test_a_stage_that_nobody_saved_yet_lists_what_its_log_says(runs: dict[str, Path]) -> None:
    data = read_run(runs["unknown"])
    assert data.stages[-1].last_counts["cost_elsewhere"] == "unknown"
    assert data.stages[-1].last_counts["step"] == STEPS
