"""`pathways-lite plan`: no corpus is read, mistakes are sentences, and a small step compiles for a TPU."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from typer.testing import CliRunner, Result

from pathways_lite.cli.main import app
from pathways_lite.errors import UserError
from pathways_lite.models.accounting import parameter_count
from pathways_lite.models.params import param_specs
from pathways_lite.planner import search
from pathways_lite.recipe import load_recipe

RECIPE = """
from pathways_lite.recipe import *


def recipe():
    model = Model(d_model=256, n_layers=3, n_heads=4, head_dim=64, d_ff=512, vocab_size=1024, remat="full")
    data = Data(corpus="not/here", seq_len=256)
    stage = Stage(model=model, data=data, optimizer=AdamW(learning_rate=3e-3), batch_size=16, budget="100 steps")
    return Recipe(name="small", stages=(stage,))
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "small.py"
    path.write_text(RECIPE)
    return path


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["plan", *map(str, arguments)], catch_exceptions=False)


def test_gpus_get_an_analytic_estimate_labelled_as_one(recipe: Path) -> None:
    output = invoke(recipe, "--topology", "gpu:8xh100").stdout
    for text in ("analytic estimate, nothing is compiled", "fits", "at most 65%: assumed share", "MFU", "GPU-hours"):
        assert text in output
    values = json.loads(invoke(recipe, "--topology", "gpu:8xh100", "--json").stdout)
    assert values["method"] == "analytic"
    assert values["mesh"]["fsdp"] == 8
    assert values["steps"]["fast"]["seconds"] <= values["steps"]["slow"]["seconds"]


def test_rules_show_shardings_without_compiling(recipe: Path) -> None:
    output = invoke(recipe, "stages.base.mesh.tensor=4", "--topology", "v5p:2x2x4", "--rules").stdout
    rows = {line.split()[0]: line for line in output.splitlines() if line.strip()}
    assert "[1024, 256]" in rows["embedding"]
    assert "tensor, fsdp" in rows["embedding"]
    assert f"{1024 * 256 * 4 / 16 / 2**20:.2f}" in rows["embedding"]
    assert "16 chips, mesh fsdp=4 tensor=4" in output


def test_search_on_gpus_shows_a_front(recipe: Path) -> None:
    output = invoke(recipe, "--topology", "gpu:4xh100", "--search").stdout
    assert "analytic estimate" in output
    assert "stages.base.mesh.fsdp=" in output.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topology", "v7:4x4"], "unknown machine"),
        (
            ["--topology", "gpu:3xh100"],
            "cannot be spread over 3 devices: mesh.data=3 does not divide batch_size=16 \\(15 or 18 work\\)",
        ),
        (
            ["stages.base.mesh.tensor=3", "--topology", "gpu:8xh100"],
            "mesh tensor=3 is for a multiple of 3 devices, but there are 8",
        ),
        (
            ["stages.base.mesh.tensor=8", "--topology", "gpu:8xh100"],
            "mesh.tensor=8 does not divide model.n_heads=4 \\(8 works\\); of 8 devices, mesh.fsdp=8 or",
        ),
        (["--stage", "other", "--topology", "gpu:8xh100"], "there is no stage 'other'"),
        (["--search", "stages.base.batch_size=1", "--topology", "gpu:7xh100"], "no layout fits"),
        (
            ["--rules", "--topology", "v5e:4x4", "--slices", "2"],
            "2 slices, which mesh.pod=1 does not match; set mesh.pod=2",
        ),
        (["--rules", "--search"], "exclude each other"),
        (["--rules", "--json"], "--json does not work with --rules"),
        (["--search", "--json", "--topology", "gpu:8xh100"], "--json does not work with --search on GPUs"),
        (["--picture", "plan.png", "--topology", "gpu:8xh100"], "draws one compiled plan"),
        (["--picture", "plan.png", "--search"], "draws one compiled plan"),
        (["--picture", "plan.jpg"], "PNG or SVG"),
        (["--picture", "not/here/plan.png"], "there is no directory not/here"),
    ],
)
def test_mistakes_are_sentences(recipe: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        invoke(recipe, *arguments)


@pytest.mark.parametrize(
    ("status", "message", "failed"),
    [
        (
            2,
            "small: compiling the train step ... minutes\nerror: it does not fit\nLess memory by: x\n",
            "it does not fit",
        ),
        (-6, "small: compiling the train step ... minutes\n", "the compiler exited with status -6"),
    ],
)
def test_why_a_candidate_of_a_search_failed(
    monkeypatch: pytest.MonkeyPatch, status: int, message: str, failed: str
) -> None:
    done = subprocess.CompletedProcess([], status, "", message)
    monkeypatch.setattr(search.subprocess, "run", lambda *_, **__: done)
    assert search._plan_candidate([], SimpleNamespace(overrides=())) == {"failed": failed}  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.libtpu
def test_a_step_is_compiled_for_a_tpu_once_and_estimated(recipe: Path, tmp_path: Path) -> None:
    def plan(*arguments: str) -> subprocess.CompletedProcess[str]:
        start = "from pathways_lite.cli.main import main; main()"
        command = [sys.executable, "-c", start, "plan", str(recipe), "--topology", "v5e:2x4", *arguments]
        command += ["--no-estimate-kernels"]
        return subprocess.run(command, capture_output=True, text=True, timeout=600, env=dict(os.environ))

    picture = tmp_path / "plan.png"
    shown = plan("--picture", str(picture))
    assert shown.returncode == 0, shown.stderr
    for text in ("compiler's allocation", "compiler's estimate", "model", "assumed: 60% of peak", "fits", "chip-hours"):
        assert text in shown.stdout
    assert picture.stat().st_size > 10_000

    values = json.loads(plan("--json").stdout.splitlines()[-1])  # from the cache
    assert values["mesh"] == {"pod": 1, "data": 1, "fsdp": 8, "context": 1, "tensor": 1}
    memory = values["program"]["memory"]
    assert memory["parameters"] == pytest.approx(values["parameters"] * 4 / 8, rel=0.02)
    assert memory["optimizer"] == pytest.approx(2 * memory["parameters"], rel=0.01)
    assert 0 < memory["padding"] < memory["parameters"]  # small arrays
    assert values["program"]["unknown_loops"] == []
    assert {entry["kind"] for entry in values["program"]["lookups"]} == {"gather", "scatter"}  # of the embedding
    cycles = values["program"]["cycles"]
    assert cycles["layers, backward"] > cycles["layers, forward"] > 0
    gathers = [
        entry for entry in values["program"]["exchanges"] if entry["kind"] == "all-gather" and entry["axes"] == ["fsdp"]
    ]
    layers = [entry for entry in gathers if entry["where"] == "layers, forward"]
    assert sum(entry["count"] for entry in layers) % 3 == 0
    assert {entry["where"] for entry in values["program"]["kernels"]} == {
        "layers, forward", "layers, again", "layers, backward"
    }  # fmt: skip
    assert all(entry["count"] == 3 for entry in values["program"]["kernels"])
    steps = values["steps"]
    assert 0 < steps["fast"]["seconds"] <= steps["slow"]["seconds"] < 1

    large = plan("stages.base.batch_size=1048576")
    assert large.returncode == 2
    assert "does not fit on v5e:2x4 (8 chips), mesh fsdp=8" in large.stderr
    assert "stages.base.model.remat=full" in large.stderr


BLOCKS = {
    # Serial with norms on both sides, windows with a RoPE base of their own, and both soft caps: Gemma 2 and 3.
    "gemma": "block='serial', norm_position='both', qk_norm=True, activation='geglu_tanh', embedding_scale=16.0, "
    "attention_scale=0.1, logit_scale=1.0, window=(64, None), local_rope_base=1e3, "
    "rope_scaling=LinearScaling(factor=4), logit_soft_cap=30.0, attention_soft_cap=50.0",
    # Norms after the branches, and over the queries of all heads: OLMo 2.
    "olmo": "block='serial', n_kv_heads=2, norm_position='post', qk_norm=True, qk_norm_over='all_heads', "
    "bias=('qkv', 'attention_out'), tie_embeddings=False, "
    "rope_scaling=Llama3Scaling(factor=4, original_length=128)",
    # A parallel block with two LayerNorms, biases everywhere, no gate, RoPE on a part of each head: GPT-NeoX.
    "neox": "n_kv_heads=4, norm='layer', parallel_norms=2, bias=('qkv', 'attention_out', 'mlp', 'norm'), "
    "activation='gelu', rope_fraction=0.5, tie_embeddings=False",
}  # fmt: skip


@pytest.fixture(params=BLOCKS)
def public(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe of a small model of each block kind of public models."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / f"{request.param}.py"
    fields = RECIPE.replace("n_layers=3", "n_layers=4").replace(
        'remat="full"', f'remat="full", {BLOCKS[request.param]}'
    )
    path.write_text(fields)
    return path


def test_every_array_of_every_block_kind_has_a_rule(public: Path) -> None:
    model = load_recipe(public).stages[0].model
    output = invoke(public, "stages.base.mesh.tensor=4", "--topology", "v5p:2x2x4", "--rules").stdout
    rows = {line.split()[0] for line in output.splitlines() if line.strip()}
    assert {array.name for array in jax.tree.leaves(param_specs(model))} <= rows
    values = json.loads(invoke(public, "--topology", "gpu:8xh100", "--json").stdout)
    assert values["steps"]["fast"]["seconds"] > 0


@pytest.mark.slow
@pytest.mark.libtpu
def test_every_block_kind_is_compiled_for_a_tpu(public: Path) -> None:
    model = load_recipe(public).stages[0].model
    command = [sys.executable, "-c", "from pathways_lite.cli.main import main; main()", "plan", str(public)]
    command += ["--topology", "v5e:2x4", "--no-estimate-kernels", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout.splitlines()[-1])
    memory, program = values["program"]["memory"], values["program"]
    assert values["parameters"] == parameter_count(model)
    assert memory["parameters"] == pytest.approx(4 * parameter_count(model) / 8, rel=0.1)
    assert memory["optimizer"] == pytest.approx(2 * memory["parameters"], rel=0.01)
    assert program["unknown_loops"] == []
    assert program["cycles"]["layers, backward"] > program["cycles"]["layers, forward"] > 0
    assert {entry["where"] for entry in program["kernels"]} == {
        "layers, forward", "layers, again", "layers, backward"
    }  # fmt: skip
    assert {sum(e["count"] for e in program["kernels"] if e["where"] == where) for where in
            ("layers, forward", "layers, again")} == {model.n_layers}  # fmt: skip
