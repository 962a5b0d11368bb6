"""A run that v0.1 began goes on, to the same result, and the commands read it.

The frozen run was killed after step 10 of its last stage; checkpoints of steps 4 and 8 are there. Stages: `base`
(the highest losses alone, gradient accumulation), `grown` (Grow, then pruning), `denoised` (UL2R, weighted rows, Muon);
all with dropout. Numbers are compared to within 1e-4, as another processor rounds otherwise; what is computed here
twice from the same arrays is compared bit by bit.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import run, succeed
from frozen import V0_1, differences, load, read_rows, workplace

FROZEN = load("run.json")
STAGES = ("base", "grown", "denoised")
RUN = Path("runs/frozen")
SUMMARY = {
    "step", "identity", "model", "domains", "denoisers", "compressors", "samples", "peak_flops", "environment",
    "command",
}  # fmt: skip


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A user's directory with the frozen corpus and the frozen run."""
    return workplace(tmp_path, "corpus", "run")


def checkpoint(directory: Path, stage: str, step: int) -> Path:
    return directory / RUN / stage / "checkpoints" / f"step_{step:08d}"


def go_on(directory: Path) -> dict[str, Any]:
    """Train the rest of the frozen run, compare it with what was frozen, and return what has to be the same bits."""
    succeed("train", "run_recipe.py", "--track", "none", "--out", RUN, directory=directory)
    logs = {stage: (directory / RUN / stage / "log.jsonl").read_bytes() for stage in STAGES}
    for stage in STAGES:
        frozen = V0_1 / "logs" / f"{stage}.jsonl"
        rows = read_rows(directory / RUN / stage / "log.jsonl")
        assert differences(read_rows(frozen), rows, more=True) == [], stage
    manifest = json.loads((checkpoint(directory, "denoised", 12) / "manifest.json").read_text())
    final = FROZEN["final"]
    assert shapes(manifest["arrays"]) == shapes(final["arrays"])
    if all(logs[stage] == (V0_1 / "logs" / f"{stage}.jsonl").read_bytes() for stage in STAGES):
        # This machine computes as the one of the frozen run did.
        assert manifest["arrays"] == final["arrays"]
    summaries = {name: json.loads((directory / RUN / name / "summary.json").read_text()) for name in STAGES}
    assert SUMMARY - summaries["denoised"].keys() == set()
    assert summaries["denoised"]["identity"] == manifest["meta"]["lineage"]["identity"]
    assert differences(final["evaluation"]["domains"], summaries["denoised"]["domains"], more=True) == []
    return {"logs": logs, "arrays": manifest["arrays"]}


def shapes(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: [info["shape"], info["dtype"]] for name, info in arrays.items()}


# ---- going on ----


def test_the_last_stage_goes_on_from_its_newest_checkpoint(tmp_path: Path) -> None:
    """Twice, to the same bits."""
    results = []
    for number in range(2):
        directory = workplace(tmp_path / str(number), "corpus", "run")
        results.append(go_on(directory))
        assert resumptions(directory) == [8]
    assert results[0] == results[1]


def test_the_last_stage_goes_on_from_an_older_checkpoint_where_the_newest_is_damaged(directory: Path) -> None:
    """From step 4, and from its own step 8 then to the same bits: that of v0.1 may be of another processor."""
    damage(checkpoint(directory, "denoised", 8))
    outcome = run("fsck", RUN, directory=directory)
    assert outcome.status == 1
    assert "step_00000008" in outcome.stdout
    whole = go_on(directory)
    shutil.rmtree(checkpoint(directory, "denoised", 12))
    (directory / RUN / "denoised" / "summary.json").unlink()
    assert go_on(directory) == whole
    assert resumptions(directory) == [4, 8]


def resumptions(directory: Path) -> list[int]:
    """The steps at which the last stage went on, as its second log tells."""
    rows = read_rows(directory / RUN / "denoised" / "timings.jsonl")
    return [row["step"] for row in rows if row["kind"] == "event" and row["event"] == "resume"]


def damage(path: Path) -> None:
    """Change one bit of a checkpoint's array."""
    file = next(path for path in (path / "arrays" / "params.embedding" / "c").rglob("*") if path.is_file())
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.slow
def test_pruning_goes_on(directory: Path) -> None:
    undo(directory, "grown", last=8)
    go_on(directory)


def test_all_that_follows_the_first_checkpoint_is_made_again(directory: Path) -> None:
    """Growth, pruning and denoising begin anew from what v0.1 saved of `base`."""
    undo(directory, "base", last=6)
    shutil.rmtree(directory / RUN / "grown")
    go_on(directory)


def undo(directory: Path, stage: str, last: int) -> None:
    """Leave a stage at its checkpoint of step 4, and nothing of the last stage."""
    shutil.rmtree(checkpoint(directory, stage, last))
    (directory / RUN / stage / "summary.json").unlink()
    shutil.rmtree(directory / RUN / "denoised")


def test_another_recipe_is_refused(directory: Path) -> None:
    words = ["train", "run_recipe.py", "stages.denoised.optimizer.momentum=0.9", "--track", "none", "--out", RUN]
    outcome = run(*words, directory=directory)
    assert outcome.status == 2
    assert "stages.denoised.optimizer.momentum: 0.95 in the run, 0.9 in this recipe" in outcome.stderr


# ---- reading ----


def test_verbs_read_the_run(directory: Path) -> None:
    inspection = json.loads(succeed("inspect", RUN, "--json", directory=directory))
    assert differences(FROZEN["interrupted"]["inspection"], inspection, tolerance=0, more=True) == []
    for stage in STAGES:
        succeed("inspect", RUN / stage, directory=directory)
    rows = [json.loads(line) for line in succeed("runs", "runs", "--json", directory=directory).splitlines()]
    assert differences(FROZEN["interrupted"]["list"], rows, tolerance=0, more=True) == []
    checked = succeed("fsck", RUN, directory=directory)
    for stage, steps in {"base": (4, 6), "grown": (4, 8), "denoised": (4, 8)}.items():
        for step in steps:
            assert f"{stage}/checkpoints/step_{step:08d}" in checked
    for path in succeed("report", RUN, directory=directory).split():
        assert (directory / path).stat().st_size > 1000
    assert "<html" in (directory / RUN / "report.html").read_text()


def test_models_are_evaluated_and_asked(directory: Path) -> None:
    evaluation = json.loads(succeed("evaluate", RUN, "--json", directory=directory))
    assert differences(FROZEN["interrupted"]["evaluation"], evaluation, more=True) == []
    grown = json.loads(succeed("evaluate", RUN / "grown", "--json", directory=directory))
    logged = json.loads((directory / RUN / "grown" / "summary.json").read_text())["domains"]
    assert differences(logged, grown["domains"], more=True) == []
    words = ["generate", RUN, "--temperature", "0", "--max-tokens", "4"]
    assert succeed(*words, "--prompt", "the ", directory=directory).startswith("the ")
    assert succeed(*words, "--mode", "s2s", "--prompt", "the ", directory=directory).startswith("the ")
    assert succeed(*words, "--infill", "the <mask> of", directory=directory).startswith("the ")


def test_models_are_made_of_the_run(directory: Path) -> None:
    succeed("grow", RUN / "base", "taller", "--operator", "stack", "--factor", "2", directory=directory)
    succeed("convert", RUN / "grown", "--sparse", "sparse", directory=directory)
    succeed("merge", "merged", RUN / "denoised", "--last", "2", directory=directory)
    for name in ("taller", "merged"):
        assert json.loads(succeed("inspect", name, "--json", directory=directory))["arrays"]
    assert any((directory / "sparse").iterdir())
