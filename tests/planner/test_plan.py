"""The arithmetic of a plan on an artificial program, and the reading of a compiled step."""

import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from helpers.small_recipes import make_recipe, make_stage
from pathways_kernels.attention import Spans
from pathways_lite import models
from pathways_lite.batch import Batch
from pathways_lite.errors import UserError
from pathways_lite.planner import cost_model, disk_cache, hlo, kernel_estimates, plan, program
from pathways_lite.planner.analytic import (
    MeshSizes,
    ModelShape,
    enumerate_meshes,
    estimate_step,
    interleave,
    pareto_front,
)
from pathways_lite.planner.chips import parse_machine
from pathways_lite.planner.cost_model import Lookup, UnestimatedOps
from pathways_lite.planner.plan import AttentionTime, StageWork, StepPlan
from pathways_lite.planner.plan_stage import stage_work, step_identity
from pathways_lite.planner.program import STEP_PARTS, CollectiveCost, Kernel, Memory, Program, step_part
from pathways_lite.planner.report import header_text
from pathways_lite.recipe import Data, Model, SeqLenWarmup

GIB = 2**30
V5P = parse_machine("v5p:4x4x4")
WORK = StageWork("model", "base", 10**9, 64, 1024, 7 * 10**9, 4 * 10**14, 10**12)


def exchange(kind, axes, seconds, waited):
    return CollectiveCost(kind, axes, 8, 2**20, 4, waited < seconds, "layers, forward", seconds, 0.0, waited)


PROGRAM = Program(
    memory=Memory(GIB, 2 * GIB, 0, 1000, 30 * GIB, 0),
    cycles={part: 175_000_000 if part != "other" else 0 for part in STEP_PARTS},
    exchanges=(
        exchange("all-gather", ("fsdp",), 0.3, 0.02),
        exchange("all-reduce", ("data",), 0.1, 0.1),
        exchange("all-gather", ("fsdp", "tensor"), 0.05, 0.05),
    ),
    kernels=(Kernel("interval_attention_forward", (4, 2, 4, 2048, 256), 2048, 32, "layers, forward"),),
    unknown_loops=(),
    lookups=(Lookup("gather", 1000, 256, 1, "", 0.03), Lookup("scatter", 1000, 512, 1, "", 0.02)),
    uncounted=UnestimatedOps(3, 4096),
    compile_seconds=1.0,
)
PLAN = StepPlan(
    WORK, V5P, {"fsdp": 32, "tensor": 2}, PROGRAM, (AttentionTime("forward", "layers, forward", 0.1, "assumed"),)
)


def test_overlap_bounds_the_step():
    assert PLAN.compute_seconds == pytest.approx(5 * 0.1 + 0.1 + 0.05)
    assert PLAN.slow == pytest.approx(0.65 + 0.45)
    assert PLAN.fast == pytest.approx(0.65 + 0.02 + 0.15)  # the asynchronous one is mostly hidden
    assert PLAN.ideal == pytest.approx(0.65 + 0.05)
    longer = replace(PROGRAM, exchanges=(exchange("all-gather", ("fsdp",), 0.9, 0.9),))
    assert replace(PLAN, program=longer).ideal == pytest.approx(0.9)


def test_rates_follow_from_the_step():
    rates = PLAN.rates(0.5)
    assert rates.tokens_per_second == 2 * 64 * 1024
    assert rates.mfu == pytest.approx(2 * 64 * 1024 * 7e9 / (64 * 459e12))
    assert rates.mfu_6n == pytest.approx(rates.mfu * 6 / 7)
    assert rates.days == pytest.approx(1e12 / (2 * 64 * 1024) / 86400)
    assert rates.chip_hours == pytest.approx(rates.days * 24 * 64)


def test_memory_is_compared_with_the_chip():
    assert PLAN.fits
    large = replace(PROGRAM, memory=PROGRAM.memory._replace(temporaries=94 * GIB))
    assert not replace(PLAN, program=large).fits


def test_a_plan_is_json():
    assert json.loads(json.dumps(PLAN.to_json()))["steps"]["slow"]["seconds"] == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("op_name", "part"),
    [
        ("jit(train_step)/jvp(layers)/while/body/eval_jaxpr/dot_general", "layers, forward"),
        ("jit(train_step)/transpose(jvp(layers))/while/body/eval_jaxpr/checkpoint/dot_general", "layers, backward"),
        ("jit(train_step)/transpose(jvp(layers))/jvp(layers)/checkpoint/dot_general", "layers, backward"),
        ("jit(train_step)/jvp()/while/body/dot_general", "embedding and loss"),
        (
            "jit(train_step)/transpose(jvp(layers))/while/body/checkpoint/rematted_computation/dot_general",
            "layers, again",
        ),
        ("jit(train_step)/jvp()/shard_map/while/body/dot_general", "embedding and loss"),
        ("jit(train_step)/while/body/transpose(jvp())/shard_map/dot_general", "embedding and loss"),
        ("jit(train_step)/cond/branch_1_fun/add", "optimizer"),
        ("convert.6", "other"),
        ("", "other"),
    ],
)
def test_operations_belong_to_parts_of_the_step(op_name, part):
    assert step_part(op_name) == part


def test_attention_is_estimated_or_assumed(monkeypatch):
    monkeypatch.setattr(plan, "causal_cycles", lambda *_: 1.75e6)
    (attention,) = plan.attention_times(PROGRAM, V5P)
    assert (attention.seconds, attention.source) == (pytest.approx(32 * 1e-3), "static profile, causal rows")
    (attention,) = plan.attention_times(PROGRAM, parse_machine("v4:4x4x4"))
    assert attention.source == "static profile, causal rows, cycles of a v5p"
    (attention,) = plan.attention_times(PROGRAM, V5P, estimate=False)
    pairs = 4 * 2 * 4 * 2048 * 2048 / 2
    assert attention.seconds == pytest.approx(32 * 4 * 256 * pairs / (0.6 * 459e12))
    assert attention.source == "assumed: 60% of peak"


def test_the_compilers_error_is_parsed():
    error = plan.parse_out_of_memory(
        "E1000: the total memory required for HLO temporaries (38.50G) exceeds available HBM (30.75G)."
    )
    assert error.needed == int(38.5 * GIB)
    assert plan.parse_out_of_memory("no more memory").needed is None


def test_compilations_are_cached_and_a_misfit_too(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(plan, "read_program", lambda compiled, *_: compiled)
    compilations = []
    sizes = dict.fromkeys(("argument", "output", "alias", "temp", "generated_code"), 7)
    analysis = SimpleNamespace(**{f"{name}_size_in_bytes": size for name, size in sizes.items()})
    compiled = SimpleNamespace(memory_analysis=lambda: analysis, as_text=lambda: "HloModule é")

    def lower():
        compilations.append(1)
        return SimpleNamespace(compile=lambda compiler_options: compiled)

    mesh = SimpleNamespace(shape={"fsdp": 64})
    for _ in range(2):
        read = plan.compiled_program(lower, None, mesh, V5P, {}, {"stage": 1})
        assert (read.text, read.aliased_bytes) == ("HloModule é", 7)
    assert len(compilations) == 1
    plan.compiled_program(lower, None, mesh, V5P, {"flag": "true"}, {"stage": 1})
    assert len(compilations) == 2

    def refuse(compiler_options):
        compilations.append(1)
        raise plan.jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: temporaries (38.50G) exceed HBM (30.75G)")

    for _ in range(2):
        with pytest.raises(plan.DoesNotFit):
            plan.compiled_program(lambda: SimpleNamespace(compile=refuse), None, mesh, V5P, {}, {"stage": 2})
    assert len(compilations) == 3

    def run_out(compiler_options):
        raise plan.jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem while allocating for %fusion.7 = bf16[8]"
        )

    with pytest.raises(UserError, match=r"^%fusion\.7 needs more vector memory(.|\n)*xla_tpu_scoped_vmem_limit_kib"):
        plan.compiled_program(lambda: SimpleNamespace(compile=run_out), None, mesh, V5P, {}, {"stage": 3})


def test_cached_results_depend_on_the_code(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert disk_cache.cached("kind", {"a": 1}, lambda: 5) == 5
    assert disk_cache.cached("kind", {"a": 1}, lambda: 6) == 5
    assert disk_cache.cached("kind", {"a": 2}, lambda: 6) == 6
    assert disk_cache.cached("kind", {"a": 1}, lambda: 7, code=disk_cache.KERNELS) == 7
    for path in (tmp_path / "pathways-lite" / "kind").iterdir():
        path.write_text("{")  # damaged
    assert disk_cache.cached("kind", {"a": 1}, lambda: 8) == 8


def test_without_a_writable_directory_nothing_is_cached(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert [disk_cache.cached("kind", {}, lambda value=value: value) for value in (1, 2)] == [1, 2]


def test_estimates_of_kernels_are_cached(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []

    def run(command, **_):
        calls.append(command)
        return SimpleNamespace(returncode=0, stdout="123\n")

    monkeypatch.setattr(kernel_estimates.subprocess, "run", run)
    for _ in range(2):
        kernel_estimates.estimate.cache_clear()
        assert kernel_estimates.estimate("forward", chip="v5e", T=7) == 123
    kernel_estimates.estimate.cache_clear()
    assert len(calls) == 1


def test_only_permanent_failures_of_estimates_are_cached(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    answers = iter(
        [
            SimpleNamespace(
                returncode=1, stdout="", stderr="RESOURCE_EXHAUSTED: ..\nRan out of memory in space vmem\n"
            ),
            SimpleNamespace(returncode=-9, stdout="", stderr="..\nkilled\n"),
            SimpleNamespace(returncode=0, stdout="5\n", stderr=""),
        ]
    )
    monkeypatch.setattr(kernel_estimates.subprocess, "run", lambda *_, **__: next(answers))

    def estimate(T):
        kernel_estimates.estimate.cache_clear()
        return kernel_estimates.estimate("forward", chip="v5e", T=T)

    assert [estimate(1), estimate(1)] == [None, None]
    with pytest.warns(UserWarning, match="killed"):
        assert estimate(2) is None
    assert estimate(2) == 5
    kernel_estimates.estimate.cache_clear()


# ---- analytic estimates and search ----


def test_analytic_estimates_change_in_the_right_direction():
    shape = ModelShape(4096, 32, 1, "dots", None)
    fsdp = {"pod": 1, "data": 1, "fsdp": 64, "context": 1, "tensor": 1}
    fsdp_tensor = fsdp | {"fsdp": 32, "tensor": 2}
    base, tensor = (estimate_step(WORK, shape, mesh, V5P, GIB) for mesh in (fsdp, fsdp_tensor))
    assert tensor.tensor > base.tensor == 0
    assert tensor.gathers < base.gathers
    full = estimate_step(WORK, replace(shape, remat="full"), fsdp, V5P, GIB)
    assert full.compute > base.compute
    assert full.activation_bytes < base.activation_bytes
    assert estimate_step(WORK, replace(shape, microbatch=16), fsdp, V5P, GIB).gathers == pytest.approx(4 * base.gathers)
    assert base.fast <= base.slow
    assert base.offload == 0
    offloaded = estimate_step(WORK, replace(shape, remat="offload"), fsdp, V5P, GIB)
    per_chip = 22 * 4096 * 32 * WORK.tokens_per_step / 64  # bytes that dots keeps and offload sends away
    assert offloaded.offload == pytest.approx(2 * per_chip / V5P.chip.host_link_bytes)
    assert offloaded.fast > base.fast  # for a model of 1 B parameters PCIe does not keep up
    replicated = estimate_step(WORK, shape, fsdp | {"data": 2, "fsdp": 32}, V5P, GIB)
    assert replicated.sums > base.sums == 0


def test_gpus_communicate_faster_inside_a_server():
    shape = ModelShape(4096, 32, 1, "dots", None)
    mesh = {"pod": 1, "data": 1, "fsdp": 8, "context": 1, "tensor": 1}
    inside, outside = (
        estimate_step(WORK, shape, mesh, parse_machine(text), GIB) for text in ("gpu:8xh100", "gpu:8x1xh100")
    )
    assert outside.gathers == pytest.approx(9 * inside.gathers)  # 450 and 50 GB/s


def test_meshes_use_every_chip_once():
    candidates = list(enumerate_meshes(64, 2))
    assert len(candidates) == len(set(candidates))
    for sizes in candidates:
        assert sizes.pod == 2
        assert sizes.pod * sizes.data * sizes.fsdp * sizes.context * sizes.tensor == 64
    assert MeshSizes(2, 1, 8, 1, 4) in candidates
    assert {sizes.context for sizes in enumerate_meshes(16, 1, contexts=(1, 2))} == {1, 2}


def test_the_pareto_front_has_no_dominated_points():
    points = [(1.0, 9.0), (2.0, 5.0), (2.0, 4.0), (3.0, 6.0), (4.0, 1.0)]
    assert pareto_front(points) == [0, 2, 4]
    assert pareto_front([]) == []


def test_every_policy_gets_its_turn():
    assert interleave([[1, 2, 3], [4], [5, 6]]) == [1, 4, 5, 2, 6, 3]


# ---- reading a compiled step ----


def test_shards_are_counted_by_their_bytes():
    leaf = SimpleNamespace(shape=(8, 4), dtype=SimpleNamespace(itemsize=4), sharding=None)
    assert program.shard_bytes(leaf) == 128
    spread = SimpleNamespace(shape=(8, 4), dtype=leaf.dtype, sharding=SimpleNamespace(shard_shape=lambda s: (2, 4)))
    assert program.shard_bytes(spread) == 32


LOOKUPS = """HloModule step

%made_of_it (p: s32[]) -> s32[] {
  ROOT %p = s32[] parameter(0)
}

ENTRY %main (table: f32[4096,48], ids: s32[2048,1], more: f32[2048,48]) -> f32[4096,48] {
  %table = f32[4096,48]{1,0} parameter(0)
  %ids = s32[2048,1]{1,0} parameter(1)
  %more = f32[2048,48]{1,0} parameter(2)
  %known = f32[8]{0} add(%ids, %ids), backend_config={"estimated_cycles":"7"}
  %sorted = s32[2048]{0} sort(%ids), metadata={op_name="jit(f)/scatter-add"}
  %rows = bf16[2048,48]{1,0} fusion(%table, %ids), calls=%made_of_it, metadata={op_name="jit(f)/jit(_take)/gather"}
  %scalar = s32[] add(%ids, %ids)
  ROOT %sum = f32[4096,48]{1,0} fusion(%table, %sorted, %more), calls=%made_of_it, metadata={op_name="f/scatter-add"}
}
"""


def test_operations_without_estimates_are_modelled_or_counted():
    module = hlo.parse(LOOKUPS)
    sites = list(hlo.executed_sites(module))
    scatter, gather = cost_model.model_lookups(sites, 1e9)
    assert (gather.kind, gather.rows, gather.row_bytes) == ("gather", 2048, 256)  # 128 lanes of two bytes
    assert gather.seconds == pytest.approx(2 * 2048 * 256 / 1e9)
    assert (scatter.kind, scatter.rows, scatter.row_bytes) == ("scatter", 2048, 512)  # indices, not rows of the table
    assert scatter.seconds == pytest.approx(3 * 2048 * 512 / 1e9)
    assert cost_model.find_unestimated(sites, module) == UnestimatedOps(1, 4 * 2048)  # the sort


@pytest.mark.parametrize("scan", [True, False])
def test_operations_of_layers_are_distinguished_from_others(scan):
    sizes = {"d_model": 32, "n_layers": 2, "n_heads": 2, "head_dim": 16, "d_ff": 64, "vocab_size": 64}
    config = Model(**sizes, remat="full", scan_layers=scan)
    ids = jax.ShapeDtypeStruct((1, 16), jnp.int32)
    batch = Batch(ids, ids, ids, ids, Spans(ids, ids), None, None)

    def loss(params, batch):
        return sum(map(jnp.sum, models.token_losses(config, params, batch)[:2]))

    text = jax.jit(jax.grad(loss)).lower(models.abstract_params(config), batch).compile().as_text()
    counts = Counter(step_part(site.op_name) for site in hlo.executed_sites(hlo.parse(text)))
    assert set(counts) >= {"layers, forward", "layers, backward", "layers, again", "embedding and loss"}
    assert counts["layers, backward"] > counts["embedding and loss"]


def test_a_plan_lists_the_lengths_of_a_warm_up_and_is_of_the_last_one():
    warm_up = SeqLenWarmup(steps=((0, 16), (40, 64)))
    stages = [make_stage(data=Data(corpus="x", seq_len=64, seq_len_warmup=warmup)) for warmup in (warm_up, None)]
    warm, plain = (stage_work(make_recipe(stage), stage) for stage in stages)
    assert (
        (warm.sequences, warm.seq_len, warm.tokens) == (plain.sequences, plain.seq_len, plain.tokens) == (8, 64, 51_200)
    )
    header = str(header_text(warm, "v5e", ""))
    assert "sequences grow: 32 x 16 tokens from step 0, 8 x 64 tokens from step 40 (2 programs to compile)" in header
    assert "planned is the step with all 64" in header
    assert "sequences grow" not in str(header_text(plain, "v5e", ""))
    (with_one, without) = (step_identity(make_recipe(stage), 0) for stage in stages)
    assert with_one != without == {name: value for name, value in with_one.items() if name != "seq_len_warmup"}
