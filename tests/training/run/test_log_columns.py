"""docs/runs.md has every column that runs of all kinds write, and no other."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from helpers.run_helpers import Chain, InjectNaN, RecordSamples, StopAfter, apply_overrides, run
from pathways_lite.errors import UserError
from pathways_lite.recipe import (
    UL2R,
    AdamW,
    DoGE,
    FirstOrder,
    Grow,
    LinUpper,
    MaskedGrowth,
    Model,
    Prune,
    Recipe,
    Reweighting,
    SpecialTokens,
    Stage,
    Steps,
)
from pathways_lite.run_history import read_history
from pathways_lite.tracking.log import LOG, TIMINGS, read_log
from pathways_lite.training.run import train_run

PAGE = (Path(__file__).parents[3] / "docs" / "runs.md").read_text()
TOKENS = SpecialTokens(
    s2s=200, nlu=201, nlg=202, prefix=203, suffix=204, middle=205, separator=206, end_of_span=207,
    first_sentinel=255, sentinels=40,
)  # fmt: skip

# Written only where git is slow, where files of the repository or a tokenizer are so, or after an import; these have
# tests of their own.
CONDITIONAL = {"git.", "package.", "domains.NAME.lossy", "environment.", "cost_elsewhere"}


def documented(file: str) -> dict[str, set[str]]:
    """The columns of a file by kind of row, as the page has them; those of `all` rows belong to every kind."""
    section = PAGE.split(f"### `{file}`\n")[1].split("\n#")[0]
    columns: dict[str, set[str]] = {}
    for kinds, names in re.findall(r"^\| ([a-z, ]+) \| ([^|]*) \|", section, flags=re.MULTILINE):
        for kind in kinds.split(", "):
            columns.setdefault(kind, set()).update(re.findall(r"`([\w.]+)`", names))
    del columns["row"]
    return columns


def flat(row: dict[str, Any]) -> Iterator[str]:
    """The columns of a row; what is by domain or denoiser has NAME in its place."""
    for name, value in row.items():
        if name in ("domains", "denoisers"):
            yield from (f"{name}.NAME.{key}" for result in value.values() for key in result)
        elif name in ("git", "package", "recipe_file", "environment", "device"):
            yield from (f"{name}.{key}" for key in value)
        else:
            yield name


def one_stage(recipe: Recipe, **fields: Any) -> Recipe:
    base = recipe.stages[0]
    small = {"batch_size": 4, "budget": Steps(n=4), "optimizer": AdamW(learning_rate=1e-3)}
    stage = Stage.model_validate({**dict(base), **small, **fields})
    return recipe.model_copy(update={"stages": (stage,)})


@pytest.fixture
def run_directories(recipe: Recipe, uninterrupted: Path, tmp_path: Path) -> list[Path]:
    """Runs that weight samples, prune, denoise, learn weights, grow, skip, rewind, halt, stop, resume and lose rows."""
    first, second, third, fourth = (tmp_path / name for name in ("weighted", "domains", "grown", "rewound"))
    weighted = one_stage(
        recipe,
        reweighting=Reweighting(rule=LinUpper()),
        pruning=Prune(sparsity=0.5, update_every=1, scope=("layers.mlp.up",), criterion=FirstOrder()),
        objective=UL2R(tokens=TOKENS),
        guard={"policy": "skip"},
    )
    samples = RecordSamples()
    assert run(weighted, first, Chain(samples, StopAfter(3))) != 0
    log = first / "base" / LOG
    log.write_text("".join(log.read_text().splitlines(keepends=True)[1:]))
    assert run(weighted, first) == 0
    assert run(weighted, tmp_path / "skipped", InjectNaN(samples.samples[5])) == 0
    assert run(one_stage(recipe, domain_weights=DoGE(mu=0.001)), second) == 0
    base = one_stage(recipe)
    larger = Model.model_validate({**dict(base.stages[0].model), "d_ff": 128})
    growth = {"name": "more", "model": larger, "start": Grow(operator=MaskedGrowth(ramp=Steps(n=2)))}
    more = Stage.model_validate({**dict(base.stages[0]), **growth})
    assert run(base.model_copy(update={"stages": (*base.stages, more)}), third) == 0
    rewinding = ["policy=rewind", "rewind_steps=2", "skip_batches=3"]
    rewound = apply_overrides(recipe, [f"stages.base.guard.{change}" for change in rewinding])
    assert run(rewound, fourth, InjectNaN(12)) == 0
    options = ["ema={}", "statistics={}", "statistics.every=2", "objective.label_smoothing=0.1", "evaluation.overlap=8"]
    options += ['early_stopping={"patience": 1, "min_delta": 9}', "evaluation.every=1"]
    options += ["evaluation.tasks=sum:choices", "evaluation.task_items=2"]
    optional = apply_overrides(base, [f"stages.base.{option}" for option in options])
    quiet = Console(file=io.StringIO())
    assert train_run(optional, tmp_path / "optional", console=quiet, source=Path(__file__)) == 0  # of a file
    denoising = apply_overrides(weighted, ["stages.base.ema={}", "stages.base.pruning=none"])
    assert run(denoising, tmp_path / "averaged") == 0
    with pytest.raises(UserError, match="halted"):
        run(base, tmp_path / "halted", InjectNaN(0))
    return [uninterrupted, *sorted(tmp_path.iterdir())]


@pytest.mark.slow
def test_the_page_has_every_column_that_is_written_and_no_other(run_directories: list[Path]) -> None:
    rows = {
        LOG: [row for run in run_directories for path in run.glob(f"*/{LOG}") for row in read_log(path)],
        TIMINGS: [row for run in run_directories for path in run.glob(f"*/{TIMINGS}") for row in read_log(path)],
        "history.jsonl": [row for run in run_directories for row in read_history(run)],
    }
    for file, of_file in rows.items():
        columns, key = documented(file), "event" if file == "history.jsonl" else "kind"
        common = columns.pop("all")
        written: dict[str, set[str]] = {}
        for row in of_file:
            kind_columns = written.setdefault(row[key], set())
            kind_columns |= set(flat(row))
        for kind, names in written.items():
            known = common | columns.get(kind, set())
            assert {name for name in names if not _is_conditional(name)} <= known, f"{file}, {kind}: not on the page"
        assert written.keys() == columns.keys(), file
        for kind, names in columns.items():
            missing = {name for name in names | common if not _is_conditional(name)} - written[kind]
            assert not missing, f"{file}, {kind}: on the page, but not written"


def _is_conditional(name: str) -> bool:
    return any(name.startswith(prefix) for prefix in CONDITIONAL)


def test_a_plain_run_writes_no_column_that_the_page_lacks(uninterrupted: Path) -> None:
    """The fast part of the test above."""
    for file in (LOG, TIMINGS):
        columns = documented(file)
        for row in read_log(uninterrupted / "base" / file):
            assert set(flat(row)) <= columns["all"] | columns[row["kind"]], file
    assert {"loss", "mean_loss", "grad_norm"} <= documented(LOG)["train"]


def test_the_page_names_the_files_that_a_run_has(uninterrupted: Path) -> None:
    names = {path.name for path in [*uninterrupted.iterdir(), *(uninterrupted / "base").iterdir()]} - {"base"}
    assert all(name in PAGE for name in names), names
