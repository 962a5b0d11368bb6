"""A causal model goes on with UL2R: same data, its own schedule, resumed to the bit."""

import json
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from helpers.run_helpers import StopAfter, add_stage, digest, log_bytes, run
from pathways_lite.checkpoints import CheckpointManager, read_manifest
from pathways_lite.cli.main import app
from pathways_lite.errors import UserError
from pathways_lite.recipe import UL2R, Denoisers, PrefixLM, Recipe, SpanCorruption, SpecialTokens, WeightedDenoiser
from pathways_lite.tracking.log import read_log
from pathways_lite.training.resolve import resolve_recipe

# Bytes that no ASCII text has.
TOKENS = SpecialTokens(
    s2s=200, nlu=201, nlg=202, prefix=203, suffix=204, middle=205, separator=206, end_of_span=207,
    first_sentinel=255, sentinels=40,
)  # fmt: skip


@pytest.fixture
def continued(recipe: Recipe) -> Recipe:
    changes = ["batch_size=4", "budget=6 steps", "saving.every=2"]
    two = add_stage(recipe, *(f"stages.more.{change}" for change in changes))
    stage = two.stages[1].model_copy(update={"objective": UL2R(tokens=TOKENS)})
    return two.model_copy(update={"stages": (two.stages[0], stage)})


def test_a_causal_model_goes_on_with_ul2r_and_resumes_bit_for_bit(
    continued: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run(continued, whole) == 0
    assert run(continued.model_copy(update={"stages": continued.stages[:1]}), stopped) == 0
    assert run(continued, stopped, StopAfter(3)) == 128 + 15
    assert run(continued, stopped) == 0
    assert digest(stopped, "more", 6) == digest(whole, "more", 6)
    assert log_bytes(stopped, "more") == log_bytes(whole, "more")

    rows = read_log(whole / "more" / "log.jsonl")
    evaluated = next(row for row in reversed(rows) if row["kind"] == "eval")
    assert set(evaluated["domains"]) == {"poems", "tales"}  # causal, on whole documents
    assert list(evaluated["denoisers"]) == ["prefix_lm", "spans_32_0.15", "spans_3_0.5", "spans_3_0.15"]
    for result in evaluated["denoisers"].values():
        assert 3 < result["loss"] < 8
        assert result["tokens"] > 0
        assert result["unused"] < 0.1  # of 32 positions at most 2
        parts = [(result.get(f"{part}_loss", 0), result[f"{part}_tokens"]) for part in ("content", "format")]
        assert sum(tokens for _, tokens in parts) == result["tokens"]
        assert sum(loss * tokens for loss, tokens in parts) / result["tokens"] == pytest.approx(result["loss"])
        assert all(tokens > 0 for _, tokens in parts)
    assert not any("denoisers" in row for row in read_log(whole / "base" / "log.jsonl"))

    meta = read_manifest(CheckpointManager(whole / "more" / "checkpoints").path(6)).meta
    assert meta["cursor"]["first_sequence"] == 10 + 7 * 4  # nothing is read twice


def test_evaluate_infilling(continued: Recipe, tmp_path: Path) -> None:
    """The JSON has every task by domain, and the causal loss behind both openers; the tables say the same."""
    short_spans = SpanCorruption(rate=0.4, mean_span=2, mode="nlu")  # several in 32 tokens
    members = tuple(WeightedDenoiser(weight=1, denoiser=d) for d in (PrefixLM(mode="s2s"), short_spans))
    mixed = continued.stages[1].model_copy(update={"objective": Denoisers(members=members, tokens=TOKENS)})
    continued = continued.model_copy(update={"stages": (continued.stages[0], mixed)})
    assert run(continued, tmp_path / "run") == 0
    invoke = partial(CliRunner().invoke, app, env={"COLUMNS": "200"})
    result = invoke(["evaluate", str(tmp_path / "run"), "--infilling", "--tokens", "600", "--json"])
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    domains = list(values["domains"])
    assert list(values["infilling_by_domain"]) == list(values["openers_by_domain"]) == domains == ["poems", "tales"]
    tasks = values["infilling"]
    assert "as_trained" in tasks
    for name, task in tasks.items():
        assert task["loss"] - task["loss_left_to_right"] == pytest.approx(task["difference"])
        by_domain = [v[name] for v in values["infilling_by_domain"].values() if name in v]
        assert sum(v["tokens"] for v in by_domain) == task["tokens"]
        assert sum(v["loss"] * v["tokens"] for v in by_domain) == pytest.approx(task["loss"] * task["tokens"])
    openers = values["openers"]
    assert list(openers) == ["eod", "s2s", "best"]
    for domain in domains:
        assert values["openers_by_domain"][domain]["eod"]["loss"] == pytest.approx(values["domains"][domain]["loss"])
    assert openers["best"]["loss"] == min(openers[name]["loss"] for name in ("eod", "s2s"))
    assert openers["eod"]["first_16_tokens"] + openers["eod"]["rest_tokens"] == openers["eod"]["tokens"]
    fewer = invoke(["evaluate", str(tmp_path / "run"), "--infilling", "--infilling-tokens", "300", "--json"])
    assert json.loads(fewer.stdout)["openers"]["eod"]["tokens"] < openers["eod"]["tokens"]
    shown = invoke(["evaluate", str(tmp_path / "run"), "--infilling", "--tokens", "600"]).output
    for text in ("as_trained", "left to right", "causal loss by opener", "s2s", f"{tasks['as_trained']['loss']:.4f}"):
        assert text in shown


def test_too_few_ids_are_refused_before_anything_runs(recipe: Recipe) -> None:
    two = add_stage(recipe)
    stage = two.stages[1].model_copy(update={"objective": UL2R()})
    with pytest.raises(
        UserError, match=r"ul2r needs 12 special tokens for seq_len=32 .* leaves 0; .* at least 269 in all"
    ):
        resolve_recipe(two.model_copy(update={"stages": (two.stages[0], stage)}))
