"""Runs with options of training scripts: sequence-length warm-up, stochastic depth, label smoothing."""

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from helpers.run_helpers import StopAfter, describe, describe_stages, digest, log_bytes, run
from pathways_lite.cli.main import app
from pathways_lite.errors import UserError
from pathways_lite.models.accounting import flops_per_token
from pathways_lite.recipe import Recipe, SeqLenWarmup, Stage, apply_overrides, stage_identity
from pathways_lite.run_directory import RunDirectory
from pathways_lite.tracking.log import read_log
from pathways_lite.training.components import Components
from pathways_lite.training.load import load_model
from pathways_lite.training.run import train_run

WARM_UP = "stages.base.data.seq_len_warmup"
OPTIONS = [
    "stages.base.model.stochastic_depth=0.4",
    "stages.base.objective.label_smoothing=0.1",
    WARM_UP + '={"steps": [[0, 8], [3, 16], [8, 32]]}',
]


def test_they_resume_bit_for_bit_and_each_length_compiles_once(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    compile_step = Components.compile_step

    def count(self: Components, sequences: int, seq_len: int | None = None) -> object:
        shapes.append((sequences, seq_len))
        return compile_step(self, sequences, seq_len)

    monkeypatch.setattr(Components, "compile_step", count)
    recipe = apply_overrides(recipe, OPTIONS)
    assert run(recipe, tmp_path / "whole") == 0
    assert shapes == [(8, 8), (4, 16), (8, 16), (4, 32)]  # 2, and from step 5 on 4 sequences of 32 tokens
    for step in (2, 6):
        assert run(recipe, tmp_path / f"stopped{step}", StopAfter(step)) != 0
        assert run(recipe, tmp_path / f"stopped{step}") == 0
        assert digest(tmp_path / f"stopped{step}") == digest(tmp_path / "whole")
        assert log_bytes(tmp_path / f"stopped{step}") == log_bytes(tmp_path / "whole")

    rows = read_log(tmp_path / "whole/base/log.jsonl")
    train = [row for row in rows if row["kind"] == "train"]
    assert all(row["smoothed_loss"] != row["loss"] for row in train)
    evaluated = load_model(tmp_path / "whole")
    final = [row for row in rows if row["kind"] == "eval"][-1]["domains"]
    plain = {name: result.to_json() for name, result in evaluated.evaluator().evaluate(evaluated.params()).items()}
    assert {name: result["loss"] for name, result in plain.items()} == {
        name: pytest.approx(result["loss"], rel=1e-6) for name, result in final.items()
    }
    model = recipe.stages[0].model
    tokens = [64] * 5 + [128] * 7
    lengths = [8] * 3 + [16] * 5 + [32] * 4
    flops = sum(n * flops_per_token(model, length) for n, length in zip(tokens, lengths, strict=True))
    ledger = RunDirectory(tmp_path / "whole").stage("base").ledger["stage"]  # type: ignore[index]
    assert (ledger["tokens"], ledger["flops"]) == (sum(tokens), flops)


def test_a_dry_run_lists_the_lengths(recipe: Recipe, recipe_file: Path) -> None:
    recipe = apply_overrides(recipe, OPTIONS)
    assert (
        "sequences grow: 8 x 8 tokens from step 0, 4 x 16 tokens from step 3, 8 x 16 tokens from step 5, 4 x 32 tokens "
        "from step 8 (4 programs to compile)"
    ) in describe(recipe)
    (row,) = describe_stages(recipe)
    assert [phase["seq_len"] for phase in row["seq_lens"]] == [8, 16, 16, 32]
    assert "seq_len=32 is never reached" in describe(apply_overrides(recipe, ["stages.base.budget=4 steps"]))
    done = CliRunner().invoke(app, ["train", str(recipe_file), *OPTIONS, "--dry-run", "--json"])
    assert json.loads(done.stdout)[0]["seq_lens"] == row["seq_lens"]


def test_the_commands_of_the_page_work(recipe: Recipe, recipe_file: Path, uninterrupted: Path, tmp_path: Path) -> None:
    """Those that train are dry runs here."""
    averaged = tmp_path / "averaged"
    assert train_run(apply_overrides(recipe, ["stages.base.ema={}", "stages.base.budget=2 steps"]), averaged) == 0
    page = (Path(__file__).parents[3] / "docs" / "training_options.md").read_text().replace("\\\n", " ")
    lines = [line for block in re.findall(r"```\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("pathways-lite ")]
    assert len(commands) == 10
    places = {
        "configs/demo.py": [str(recipe_file), "stages.base.data.seq_len=256"],
        "runs/demo": [str(uninterrupted)],
        "runs/averaged": [str(averaged)],
    }
    for command in commands:
        words = [word for given in command for word in places.get(given, [given])]
        words = ["16" if before == "--overlap" else word for before, word in zip(["", *words], words, strict=False)]
        words += ["--dry-run"] if words[0] == "train" and "--dry-run" not in words else []
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, f"{words}: {done.exception}"


def test_identities_of_recipes_without_them_stay(recipe: Recipe) -> None:
    (stage,) = recipe.stages
    written = stage.model_dump()
    for part, names in {"model": ("stochastic_depth", "stochastic_depth_by"), "data": ("seq_len_warmup",)}.items():
        for name in names:
            del written[part][name]
    del written["objective"]["label_smoothing"], written["evaluation"]["overlap"]
    old = recipe.model_copy(update={"stages": (Stage.model_validate(written),)})
    assert stage_identity(old, 0) == stage_identity(recipe, 0)
    assert stage_identity(apply_overrides(recipe, OPTIONS), 0) != stage_identity(recipe, 0)
    assert stage_identity(apply_overrides(recipe, ["stages.base.evaluation.overlap=3"]), 0) == stage_identity(recipe, 0)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"steps": [[0, 8], [3, 12], [8, 32]]}, "each a multiple of the one before"),
        ({"steps": [[1, 8], [8, 32]]}, "must start at 0"),
        ({"steps": []}, "must start at 0"),
        ({"steps": [[0, 8], [8, 16]]}, "ends with sequences of 16 tokens, but seq_len=32"),
        ({"steps": [[0, 8], [3, 32]], "batch": "rows"}, "begin it at step 4, or set seq_len_warmup.batch='tokens'"),
    ],
)
def test_a_warm_up_that_cannot_be_is_refused(recipe: Recipe, value: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        apply_overrides(recipe, [f"{WARM_UP}={json.dumps(value)}"])


def test_a_warm_up_by_rows_that_fits_is_taken_and_pruning_is_not(recipe: Recipe) -> None:
    value = '={"steps": [[0, 8], [4, 32]], "batch": "rows"}'
    data = apply_overrides(recipe, [WARM_UP + value]).stages[0].data
    assert data.seq_len_warmup == SeqLenWarmup(steps=((0, 8), (4, 32)), batch="rows")
    with pytest.raises(UserError, match="pruning counts the FLOPs of one sequence length"):
        apply_overrides(recipe, [WARM_UP + value, 'stages.base.pruning={"sparsity": 0.5}'])
