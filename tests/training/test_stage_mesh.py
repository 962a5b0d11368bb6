"""Meshes of stages: what trains and what is refused, by one check for dry runs, plans and starts."""

import io
import json
import re
import subprocess
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh
from rich.console import Console

from helpers.invoke import invoke
from pathways_lite import models
from pathways_lite.errors import UserError
from pathways_lite.parallel.mesh import AXES
from pathways_lite.parallel.sharding import Layout
from pathways_lite.recipe import AdamW, Data, Model, Stage, load_recipe
from pathways_lite.training import stage_mesh
from pathways_lite.training.run import train_run
from pathways_lite.training.stage_mesh import mesh_note, require_mesh, stage_axis_sizes, uneven_extents

SIZES = {"d_model": 24, "n_layers": 1, "n_heads": 4, "head_dim": 4, "d_ff": 48, "vocab_size": 64}


def stage(sequences: int = 12, seq_len: int = 16, mesh: Any = None, **model: Any) -> Stage:
    data = Data(corpus="none", seq_len=seq_len)
    fields = {"mesh": mesh} if mesh else {}
    config = Model(**SIZES | model)
    return Stage(
        name="base", model=config, data=data, optimizer=AdamW(), batch_size=sequences, budget="2 steps", **fields
    )


@pytest.mark.parametrize(
    ("devices", "mesh", "width", "sizes"),
    [
        (3, {}, 24, {"fsdp": 3}),
        (3, {}, 64, {"data": 3}),
        (6, {}, 64, {"data": 3, "fsdp": 2}),
        (8, {}, 64, {"fsdp": 8}),
        (6, {"tensor": 2}, 64, {"data": 3, "tensor": 2}),
        (6, {"data": 2}, 64, {"data": 2, "fsdp": 3}),  # as it is written
        (6, {"fsdp": 6}, 64, {"fsdp": 6}),
    ],
)
def test_the_rest_of_the_devices_goes_where_it_divides(devices: int, mesh: dict, width: int, sizes: dict) -> None:
    one = stage(mesh=mesh, d_model=width)
    found = stage_axis_sizes(one, devices)
    assert {axis: size for axis, size in found.items() if size > 1} == sizes
    assert bool(mesh_note(one, found)) == (sizes.get("data", 1) > 1 and "data" not in mesh)


@given(
    width=st.sampled_from([24, 36, 64]), heads=st.sampled_from([3, 4, 6]), kv=st.sampled_from([1, 2, 3]),
    mlp=st.sampled_from([30, 48]), vocabulary=st.sampled_from([60, 63, 64]), fsdp=st.integers(1, 4),
    context=st.integers(1, 3), tensor=st.integers(1, 4),
)  # fmt: skip
def test_a_mesh_is_refused_where_it_does_not_divide_a_parameter(
    width: int, heads: int, kv: int, mlp: int, vocabulary: int, fsdp: int, context: int, tensor: int
) -> None:
    kv = kv if heads % kv == 0 else 1
    one = stage(d_model=width, n_heads=heads, n_kv_heads=kv, d_ff=mlp, vocab_size=vocabulary)
    sizes = {"pod": 1, "data": 1, "fsdp": fsdp, "context": context, "tensor": tensor}
    layout: Any = Layout(AbstractMesh(tuple(sizes.values()), AXES))  # type: ignore[arg-type]
    of_model = [extent for extent in uneven_extents(one, sizes) if extent.text.startswith("model.")]
    try:
        layout.abstract_parameters(models.abstract_params(one.model), models.logical_axes(one.model))
    except UserError:
        assert of_model
    else:  # key/value heads and the residual stream are no parameters
        assert {extent.logical for extent in of_model} <= {"kv", "residual"}


def test_sentences_name_size_axis_and_what_works() -> None:
    with pytest.raises(UserError, match=r"mesh.tensor=3 does not divide model.n_heads=4 \(3 or 6 work\)") as refused:
        require_mesh(stage(mesh={"tensor": 3}, vocab_size=65), 3)
    assert "model.vocab_size=65 (66 works)" in str(refused.value), "a vocabulary cannot shrink"
    assert "of 3 devices, mesh.fsdp=3 or mesh.data=3 works for it" in str(refused.value)
    with pytest.raises(UserError, match=r"mesh.fsdp=3 does not divide batch_size=8 \(6 or 9 work\); no mesh of 3"):
        require_mesh(stage(8), 3)
    with pytest.raises(UserError, match=r"but one of 2 does$"):
        require_mesh(stage(8), 3)
    with pytest.raises(UserError, match=r"one of 2 does: .*, as in JAX_NUM_CPU_DEVICES=2 pathways-lite train RECIPE"):
        require_mesh(stage(8), 3, platform="cpu")
    with pytest.raises(UserError, match=r"one of 2 does: write CUDA_VISIBLE_DEVICES=0,1 before the command"):
        require_mesh(stage(8), 3, platform="gpu")
    with pytest.raises(UserError, match=r"stage 'base': mesh tensor=2 is for a multiple of 2 devices"):
        require_mesh(stage(mesh={"tensor": 2}), 3)


@pytest.mark.parametrize("devices", [3, 4, 6])
def test_the_meshes_and_sizes_that_are_named_work(devices: int) -> None:
    for sequences, heads, tensor in product((8, 9), (4, 6), (1, devices)):
        one = stage(sequences, n_heads=heads, mesh={"tensor": tensor})
        try:
            require_mesh(one, devices)
        except UserError as error:
            for named in re.findall(
                r"mesh\.\w+=\d+(?: with mesh\.\w+=\d+)*(?= works| or)", str(error).split("; of ")[-1]
            ):
                mesh = {axis: int(size) for axis, size in re.findall(r"mesh\.(\w+)=(\d+)", named)}
                require_mesh(one.model_copy(update={"mesh": {"fsdp": 1} | mesh}), devices)
            for size in re.findall(r"batch_size=8 \((\d+) or (\d+) work", str(error)):
                require_mesh(stage(int(size[0]), mesh={"data": devices, "fsdp": 1}, n_heads=heads), devices)


def test_dry_run_plan_and_start_refuse_with_the_same_words(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three = [jax.devices()[0]] * 3
    monkeypatch.setattr(stage_mesh, "jax", SimpleNamespace(devices=lambda: three))
    words = [str(recipe_file), "stages.base.mesh.tensor=3", "stages.base.batch_size=9"]
    out = tmp_path / "run"
    dry = invoke("train", *words, "--out", out, "--dry-run").output
    (sentence,) = re.findall(r"note: does not train here: (.*)", dry)
    assert "mesh.tensor=3 does not divide model.d_model=32 (30 or 33 work)" in sentence
    (row,) = json.loads(invoke("train", *words, "--out", out, "--dry-run", "--json").stdout)
    assert row["problem"] == sentence
    with pytest.raises(UserError) as planned:
        invoke("plan", *words, "--topology", "gpu:3xh100")
    assert str(planned.value) == sentence
    with pytest.raises(UserError) as started:
        train_run(load_recipe(recipe_file, words[1:]), out, console=Console(file=io.StringIO()))
    assert str(started.value) == sentence
    assert not out.exists(), "a refused start leaves nothing"


@pytest.mark.slow
def test_what_is_refused_cannot_be_lowered_and_the_rest_can() -> None:
    """On six CPU devices: batches, sequences, heads and micro-batches that they divide, and that they do not."""
    done = subprocess.run(
        [sys.executable, "-m", "helpers.eight_devices.refuse"], capture_output=True, text=True, check=True, cwd="tests"
    )
    for case, (is_refused, fails) in json.loads(done.stdout).items():
        assert is_refused == fails, case
