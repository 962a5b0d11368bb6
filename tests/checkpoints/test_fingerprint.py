"""The fingerprint is the array's alone, however it is sliced, and any change of the array changes it."""

import itertools

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pathways_lite.checkpoints import fingerprint as module
from pathways_lite.checkpoints.fingerprint import Fingerprint, fingerprint

DTYPES = [bool, np.int8, np.uint16, np.float16, ml_dtypes.bfloat16, np.int32, np.float32, np.int64, np.float64]
DTYPES += [np.complex64, np.complex128, ml_dtypes.float8_e4m3fn, ml_dtypes.int4]


def whole(array):
    return fingerprint(array, (0,) * array.ndim)


def random_array(seed, shape, dtype):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    data = np.random.default_rng(seed).bytes(size)
    if dtype in (bool, ml_dtypes.int4):
        data = bytes(byte & 1 for byte in data)
    return np.frombuffer(data, dtype).reshape(shape).copy()


@settings(max_examples=60)
@given(
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_any_grid_of_slices_adds_up_to_the_whole(shape, dtype, seed, data):
    array = random_array(seed, shape, dtype)
    cuts = [sorted({0, size, *data.draw(st.lists(st.integers(0, size), max_size=3))}) for size in shape]
    total = Fingerprint()
    for corner in itertools.product(*(itertools.pairwise(cut) for cut in cuts)):
        block = array[tuple(slice(*ends) for ends in corner)]
        total = total.plus(fingerprint(np.asarray(block, order="F"), tuple(begin for begin, _ in corner)))
    assert total == whole(array)


def test_a_long_axis_is_processed_in_slices(monkeypatch):
    array = random_array(0, (3, 1000), np.float32)
    expected = whole(array)
    monkeypatch.setattr(module, "_MAX_WEIGHTS", 64)
    monkeypatch.setattr(module, "_BLOCK", 64)
    assert whole(array) == expected


@pytest.mark.parametrize("dtype", [np.uint8, ml_dtypes.bfloat16, np.float32, np.float64, np.complex128])
def test_every_flipped_bit_changes_both_sums(dtype):
    array = random_array(1, (3, 5), dtype)
    before = whole(array)
    raw = array.view(np.uint8).reshape(-1)
    for bit in range(8 * raw.size):
        raw[bit // 8] ^= 1 << bit % 8
        after = whole(array)
        assert after.first != before.first
        assert after.second != before.second
        raw[bit // 8] ^= 1 << bit % 8
    assert whole(array) == before


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_elements_that_swap_places_are_noticed(dtype):
    """Two ones among minus ones differ in the highest bit alone, of which the least is left in a product mod 2^64."""
    array = np.full((40, 50), -1, dtype)
    distinct = set()
    for index in range(array.size):
        array.flat[index] = 1
        distinct.add(whole(array))
        array.flat[index] = -1
    assert len(distinct) == array.size


def test_typical_faults_are_detected():
    array = random_array(2, (8, 16, 32), np.float32)
    faulty = {
        "two rows exchanged": array[:, ::-1],
        "transposed": np.ascontiguousarray(array.transpose(0, 2, 1)).reshape(array.shape),
        "shifted by one": np.roll(array.reshape(-1), 1).reshape(array.shape),
        "one layer twice": np.concatenate([array[:1], array[:1], array[2:]]),
        "a page of zeros": np.where(np.arange(array.size).reshape(array.shape) < 1024, 0, array).astype(np.float32),
        "rectangle": array.copy(),
    }
    # Changes that cancel along both axes, which a checksum per row and column would not see.
    raw = faulty["rectangle"].view(np.uint32)
    raw[0, [[2, 5], [2, 5]], [[3, 3], [9, 9]]] += np.array([[1, -1], [-1, 1]], np.int32).view(np.uint32)
    fingerprints = {name: whole(array) for name, array in faulty.items()}
    assert len({whole(array), *fingerprints.values()}) == len(faulty) + 1


def test_it_is_written_in_thirty_two_digits():
    assert str(Fingerprint(1, 2**64 - 1)) == "0000000000000001ffffffffffffffff"


def test_golden_value():
    """Old checkpoints are verified with it."""
    assert str(whole(np.arange(24, dtype=np.float32).reshape(2, 3, 4))) == "d45343f46737d6801ba00dc75176b7c0"
