"""The HLO parser: counts inside loops, collectives and their groups, in every form that the compilers write."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from pathways_lite.planner import hlo
from pathways_lite.planner.collectives import collectives, count_collectives, mesh_axes, parse_groups

# As the TPU compiler writes a scan of 8 layers: no known_trip_count, counters through copies, a reduce-scatter as a
# fusion, a gather that overlaps with a matrix product, one on the sparse cores, a Pallas kernel.
TPU = """HloModule jit_step, is_scheduled=true, entry_computation_layout={()->f32[]}, num_partitions=8

%add (x: bf16[], y: bf16[]) -> bf16[] {
  %x = bf16[]{:T(256)} parameter(0)
  %y = bf16[]{:T(256)} parameter(1)
  ROOT %sum = bf16[]{:T(256)} add(%x, %y)
}

%all-reduce-scatter.1 (input.5: bf16[64,32]) -> bf16[16,32] {
  %input.5 = bf16[64,32]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.14 = bf16[64,32]{1,0:T(8,128)(2,1)} all-reduce(%input.5), channel_id=7, replica_groups={{0,2,4,6},{1,3,5,7}}, to_apply=%add
  %zero = u32[] constant(0)
  ROOT %dynamic-slice.64 = bf16[16,32]{1,0:T(8,128)(2,1)} dynamic-slice(%all-reduce.14, %zero, %zero), dynamic_slice_sizes={16,32}
}

%begun (param_0: bf16[16,32]) -> (bf16[16,32], bf16[64,32], u32[]) {
  %param_0 = bf16[16,32]{1,0} parameter(0)
  %all-gather.21 = bf16[64,32]{1,0} all-gather(%param_0), channel_id=2, replica_groups=mesh['a'=4,'b'=2] {'a'}, dimensions={0}, frontend_attributes={chain_id="0"}, metadata={op_name="jit(step)/gather"}
  ROOT %custom-call.2 = (bf16[16,32]{1,0}, bf16[64,32]{1,0}, u32[]{:S(2)}) custom-call(%all-gather.21), custom_call_target="AsyncCollectiveStart"
}

%continued (param_1: bf16[16,32]) -> bf16[64,32] {
  %param_1 = bf16[16,32]{1,0} parameter(0)
  ROOT %all-gather.23 = bf16[64,32]{1,0} all-gather(%param_1), channel_id=2, replica_groups=mesh['a'=4,'b'=2] {'a'}, dimensions={0}, frontend_attributes={chain_id="0"}, metadata={op_name="jit(step)/gather"}
}

%sparse (param_2: bf16[16,32]) -> bf16[64,32] {
  %param_2 = bf16[16,32]{1,0} parameter(0)
  ROOT %all-gather.26 = bf16[64,32]{1,0} all-gather(%param_2), channel_id=3, replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}
}, execution_thread="sparsecore"

%body (p: (s32[], bf16[16,32])) -> (s32[], bf16[16,32]) {
  %p = (s32[]{:T(128)}, bf16[16,32]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%i, %one)
  %w = bf16[16,32]{1,0} get-tuple-element(%p), index=1
  %async-collective-start = (bf16[16,32]{1,0}, bf16[64,32]{1,0}, u32[]{:S(2)}) fusion(%w), kind=kCustom, calls=%begun
  %fusion.9 = bf16[64,32]{1,0} fusion(%w), kind=kOutput, calls=%continued, backend_config={"window_config":{"estimated_cycles":"500"}}
  %call-start = ((), (), u32[]) custom-call-start(%w), async_execution_thread="sparsecore", called_computations={%sparse}, metadata={op_name="jit(step)/sparse"}
  %call-done = bf16[64,32]{1,0} custom-call-done(%call-start)
  %flash.3 = bf16[64,32]{1,0} custom-call(%call-done), custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{}}
  %scattered = bf16[16,32]{1,0} fusion(%flash.3), kind=kCustom, calls=%all-reduce-scatter.1, metadata={op_name="jit(step)/scatter"}
  ROOT %out = (s32[]{:T(128)}, bf16[16,32]{1,0}) tuple(%next, %scattered)
}

%condition (p: (s32[], bf16[16,32])) -> pred[] {
  %p = (s32[]{:T(128)}, bf16[16,32]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %layers = s32[]{:T(128)} constant(8)
  ROOT %lt = pred[]{:T(512)} compare(%i, %layers), direction=LT
}

ENTRY %main (w: bf16[16,32]) -> bf16[16,32] {
  %w = bf16[16,32]{1,0} parameter(0)
  %start = s32[]{:T(128)} constant(0)
  %copy.3 = s32[]{:T(128)} copy(%start)
  %state = (s32[]{:T(128)}, bf16[16,32]{1,0}) tuple(%copy.3, %w)
  %while.1 = (s32[]{:T(128)}, bf16[16,32]{1,0}) while(%state), condition=%condition, body=%body, metadata={op_name="jit(step)/while"}
  ROOT %result = bf16[16,32]{1,0} get-tuple-element(%while.1), index=1
}
"""  # noqa: E501

MESH = SimpleNamespace(axis_names=("fsdp", "tensor"), devices=np.zeros((4, 2)))


def test_collectives_of_a_tpu_program_count_once_each_per_layer():
    ops = collectives(TPU)
    assert [(op.kind, op.count, op.operand_bytes, op.result_bytes, op.asynchronous, op.where) for op in ops] == [
        ("all-gather", 8, 1024, 4096, True, "jit(step)/gather"),
        ("all-gather", 8, 1024, 4096, True, "jit(step)/sparse"),
        ("reduce-scatter", 8, 4096, 1024, False, "jit(step)/scatter"),
    ]
    # The first overlaps with fusion.9, the second with nothing that has an estimate.
    assert [op.cycles_meanwhile for op in ops] == [500, 0, 0]
    assert all(mesh_axes(op.groups, MESH) == ("fsdp",) and op.group_size == 4 for op in ops)
    assert count_collectives(TPU, MESH) == {("all-gather", ("fsdp",)): 16, ("reduce-scatter", ("fsdp",)): 8}
    assert count_collectives(TPU, MESH, at_least=5000) == {}


def test_cycles_and_kernels_are_counted_per_execution():
    sites = list(hlo.executed_sites(hlo.parse(TPU)))
    assert sum(site.times * (site.instruction.cycles or 0) for site in sites) == 8 * 500
    assert [(site.instruction.kernel, site.times) for site in sites if site.instruction.kernel] == [("flash", 8)]


def test_trip_counts_follow_start_stop_and_step():
    every_third = TPU.replace("%one = s32[]{:T(128)} constant(1)", "%one = s32[]{:T(128)} constant(3)")
    assert count_collectives(every_third, MESH)["reduce-scatter", ("fsdp",)] == 3  # 0, 3, 6
    from_six = TPU.replace("%start = s32[]{:T(128)} constant(0)", "%start = s32[]{:T(128)} constant(6)")
    assert count_collectives(from_six, MESH)["reduce-scatter", ("fsdp",)] == 2
    known = TPU.replace(
        "condition=%condition, body=%body", 'condition=%condition, body=%body, x={"known_trip_count":{"n":"5"}}'
    )
    assert count_collectives(known, MESH)["reduce-scatter", ("fsdp",)] == 5


def test_a_loop_that_depends_on_data_is_named_and_counts_once():
    unknown = TPU.replace(
        "%layers = s32[]{:T(128)} constant(8)", "%layers = s32[]{:T(128)} get-tuple-element(%p), index=0"
    )
    assert hlo.unknown_loops(hlo.parse(unknown)) == ["while.1"]
    assert hlo.unknown_loops(hlo.parse(TPU)) == []
    assert count_collectives(unknown, MESH)["reduce-scatter", ("fsdp",)] == 1


def test_what_is_not_hlo_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("hello")


@pytest.mark.parametrize(
    ("dtype", "bits"), [("bf16", 16), ("f32", 32), ("pred", 8), ("s4", 4), ("f8e4m3fn", 8), ("token", 0)]
)
def test_bits_of_types(dtype, bits):
    assert hlo.bits(dtype) == bits


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("{}", [[0, 1, 2, 3, 4, 5, 6, 7]]),
        ("[4,2]<=[8]", [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("[2,4]<=[4,2]T(1,0)", [[0, 2, 4, 6], [1, 3, 5, 7]]),
        ("[2,4]<=[2,2,2]T(1,0,2)", [[0, 1, 4, 5], [2, 3, 6, 7]]),
        ("mesh['a'=4,'b'=2] {'a'}", [[0, 2, 4, 6], [1, 3, 5, 7]]),
        ("mesh[a=4,b=2] {b}", [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("mesh['a'=1,'b'=8] {'a','b'}", [[0, 1, 2, 3, 4, 5, 6, 7]]),
        ("mesh['a'=8] {'a':(1)2}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("mesh['a'=8] {'a':(4)2}", [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("mesh['a'=2,'b'=2], device_ids=([0,2,1,3]) {'b'}", [[0, 2], [1, 3]]),
    ],
)
def test_replica_groups(text, groups):
    assert parse_groups(text, 8).tolist() == groups


def test_groups_of_an_unknown_form_are_refused():
    with pytest.raises(ValueError, match="replica groups of unknown form"):
        parse_groups("every device", 8)


def test_axes_of_groups():
    mesh = SimpleNamespace(axis_names=("pod", "data", "fsdp", "tensor"), devices=np.zeros((2, 1, 2, 2)))
    assert mesh_axes(np.array([[0, 1], [2, 3], [4, 5], [6, 7]]), mesh) == ("tensor",)
    assert mesh_axes(np.array([[0, 4], [1, 5], [2, 6], [3, 7]]), mesh) == ("pod",)
    assert mesh_axes(np.array([[0, 2, 4, 6], [1, 3, 5, 7]]), mesh) == ("pod", "fsdp")


PROGRAM = """
import json
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from pathways_lite.planner.collectives import count_collectives

mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
on = lambda shape, *spec: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, P(*spec)))
whole = lambda x, *spec: jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(*spec)))

def layer(x, w):
    return whole(x @ whole(w, None, "tensor") @ whole(w, None, "tensor").T, "fsdp"), None

def layers(x, w):
    return jax.lax.scan(layer, x, w)[0]

def twice(x, w):
    return jax.lax.fori_loop(0, 3, lambda _, x: layers(x, w), x)

def permuted(x):
    shift = lambda x: jax.lax.ppermute(x, "tensor", [(0, 1), (1, 0)])
    return jax.shard_map(shift, mesh=mesh, in_specs=P("tensor"), out_specs=P("tensor"))(x)

x, w = on((16, 64), "fsdp"), on((5, 64, 32), None, "fsdp", "tensor")
for function, arguments in ((layers, (x, w)), (twice, (x, w)), (permuted, (on((8,), "tensor"),))):
    text = jax.jit(function).lower(*arguments).compile().as_text()
    print(json.dumps([[kind, axes, n] for (kind, axes), n in count_collectives(text, mesh).items()]))
"""


def test_programs_compiled_for_8_devices():
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    once, thrice, permuted = (json.loads(line) for line in done.stdout.splitlines())
    assert once == [["all-gather", ["fsdp"], 5], ["all-reduce", ["tensor"], 5]]
    assert thrice == [["all-gather", ["fsdp"], 15], ["all-reduce", ["tensor"], 15]]
    assert permuted == [["collective-permute", ["tensor"], 1]]
