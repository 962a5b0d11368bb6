"""One checkpoint: what goes in comes out bit for bit, or is refused with what differs."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pathways_lite.checkpoints import orbax_io, read_manifest, restore
from pathways_lite.checkpoints.arrays import snapshot
from pathways_lite.checkpoints.checkpoint import discard, remove_leftovers, step_of, write_checkpoint
from pathways_lite.errors import UserError

META = {"cursor": {"first_sequence": 3, "skips": [[1, 2]]}, "ledger": {"flops": 10**25}, "note": "Zoë"}


def save(directory, tree, step=1, meta=None):
    return write_checkpoint(directory, step, snapshot(tree), META if meta is None else meta)


def abstract(tree):
    return jax.eval_shape(lambda: tree)


def test_everything_comes_back_as_one(tmp_path, state, same):
    restored = restore(save(tmp_path, state, step=12), abstract(state))
    assert same(restored.arrays, state)
    assert (restored.step, restored.meta) == (12, META)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_typed_keys_stay_typed(tmp_path, impl):
    tree = {"key": jax.random.split(jax.random.key(5, impl=impl), 3)}
    key = restore(save(tmp_path, tree), abstract(tree)).arrays["key"]
    assert key.dtype == tree["key"].dtype
    assert jnp.array_equal(jax.random.bits(key[1]), jax.random.bits(tree["key"][1]))


DTYPES = [bool, np.int8, np.uint32, np.int64, np.float16, np.float32, np.float64, np.complex64, ml_dtypes.bfloat16]
DTYPES += [ml_dtypes.float8_e4m3fn, ml_dtypes.int4]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shapes=st.lists(
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5), min_size=len(DTYPES), max_size=20
    ),
    seed=st.integers(0, 2**32 - 1),
    fortran=st.booleans(),
)
def test_any_shape_dtype_and_memory_order(tmp_path_factory, same, shapes, seed, fortran):
    rng = np.random.default_rng(seed)
    tree = {"one": np.ones(1)}  # a checkpoint of arrays without elements alone is not of this world
    for i, shape in enumerate(shapes):
        array = rng.integers(0, 2, shape).astype(DTYPES[i % len(DTYPES)])
        tree[f"a{i}"] = np.asarray(array, order="F" if fortran else "C")
    assert same(restore(save(tmp_path_factory.mktemp("any"), tree), tree).arrays, tree)


def test_sixty_four_bits_are_not_cut_to_thirty_two(tmp_path):
    tree = {"sample_id": np.array([2**40 + 1])}
    restored = restore(save(tmp_path, tree), {"sample_id": jax.ShapeDtypeStruct((1,), np.int64)})
    assert restored.arrays["sample_id"][0] == 2**40 + 1


def test_shardings_of_the_abstract_tree_are_used(tmp_path, state):
    mesh = jax.make_mesh((1,), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    target = {"w": jax.ShapeDtypeStruct((4, 2), jnp.float32, sharding=sharding)}
    restored = restore(save(tmp_path, {"w": jnp.ones((4, 2))}), target)
    assert restored.arrays["w"].sharding == sharding


def test_a_part_of_the_tree_by_prefix(tmp_path, state, same):
    path = save(tmp_path, state)
    assert same(restore(path, abstract(state.params), "params").arrays, state.params)
    assert same(restore(path, abstract(state.params["layers"]), "params.layers").arrays, state.params["layers"])


def test_every_difference_is_named_and_nothing_is_loaded(tmp_path, monkeypatch):
    path = save(
        tmp_path, {"same": np.ones(3), "shape": np.ones((8, 4)), "dtype": np.ones(2, np.float32), "old": np.ones(1)}
    )
    target = {"same": np.ones(3), "shape": np.ones((12, 4)), "dtype": np.ones(2, np.float16), "new": np.ones(1)}
    monkeypatch.setattr(orbax_io, "open_array", lambda *_: pytest.fail("loaded before it was compared"))
    with pytest.raises(UserError) as error:
        restore(path, target)
    assert sorted(str(error.value).splitlines()[1:]) == [
        "  dtype: float32[2] in the checkpoint, expected float16[2]",
        "  new: not in the checkpoint, expected float64[1]",
        "  old: float64[1] in the checkpoint, not expected",
        "  shape: float64[8,4] in the checkpoint, expected float64[12,4]",
    ]


def test_another_kind_of_key_is_a_difference(tmp_path):
    path = save(tmp_path, {"key": jax.random.key(0)})
    with pytest.raises(UserError, match=r"key<fry>\[\] in the checkpoint, expected key<rbg>"):
        restore(path, {"key": jax.random.key(0, impl="rbg")})


def test_the_manifest_alone_tells_what_is_inside(tmp_path, state):
    manifest = read_manifest(save(tmp_path, state, step=4))
    assert {name: str(info) for name, info in manifest.arrays.items()} == {
        "step": "int32[]",
        "params.embed": "float32[5,3]",
        "params.layers.wq": "bfloat16[2,3,4]",
        "opt_state.1.count": "int32[]",
        "opt_state.1.mu.embed": "float32[5,3]",
        "opt_state.1.mu.layers.wq": "bfloat16[2,3,4]",
        "key": "key<fry>[]",
    }
    assert (manifest.step, manifest.meta) == (4, META)


def test_the_digest_is_the_content_s(tmp_path, state, state_of):
    first = read_manifest(save(tmp_path / "a", state, step=1, meta={"seconds": 1.5})).digest
    assert first == read_manifest(save(tmp_path / "b", state, step=2, meta={"seconds": 2.5})).digest
    assert first != read_manifest(save(tmp_path / "c", state_of(1))).digest


def test_a_snapshot_outlives_donation(state):
    update = jax.jit(lambda x: x + 1, donate_argnums=0)
    array = jnp.arange(100_000.0)
    host = snapshot({"x": array})
    for _ in range(3):
        array = update(array)
    np.testing.assert_array_equal(host["x"].data, np.arange(100_000.0))


def test_a_snapshot_does_not_share_numpy_memory():
    array = np.zeros(3)
    host = snapshot({"x": array})
    array += 1
    assert not host["x"].data.any()


@pytest.mark.parametrize("tree", [{"a.b": np.ones(1)}, {"a/b": np.ones(1)}, {"": np.ones(1)}, np.ones(1)])
def test_names_that_would_be_ambiguous_are_refused(tree):
    with pytest.raises(ValueError, match="name"):
        snapshot(tree)


def test_a_failed_write_leaves_nothing(tmp_path, state, monkeypatch):
    def fail(path, arrays):
        (path / "part").write_bytes(b"x")
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(orbax_io, "write", fail)
    with pytest.raises(OSError, match="Input/output"):
        save(tmp_path, state)
    assert list(tmp_path.iterdir()) == []


def test_deleting_takes_the_name_away_first(tmp_path, state, monkeypatch):
    path = save(tmp_path, state)
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)  # killed before anything was removed
    discard(path)
    assert [step_of(p) for p in tmp_path.iterdir()] == [None]
    monkeypatch.undo()
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []
