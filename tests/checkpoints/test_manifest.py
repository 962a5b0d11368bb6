"""The manifest comes back equal, and no bit of it can change unnoticed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathways_lite.checkpoints.manifest import ArrayInfo, FileInfo, Manifest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
META = st.dictionaries(st.text(), JSON, max_size=4)


def manifest(meta: dict) -> Manifest:
    arrays = {"params.w": ArrayInfo((2, 3), "float32", 24, "ab" * 16)}
    return Manifest(7, arrays, {"arrays/x": FileInfo(24, 0xDEADBEEF)}, meta)


@settings(max_examples=30)
@given(META)
def test_round_trip(meta):
    written = manifest(meta)
    assert Manifest.from_bytes(written.to_bytes()) == written


def test_every_flipped_bit_is_noticed():
    raw = manifest({"cursor": {"first_sequence": 0}, "name": "é"}).to_bytes()
    for bit in range(8 * len(raw)):
        damaged = bytearray(raw)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="not what was written"):
            Manifest.from_bytes(bytes(damaged))


def test_every_truncation_is_noticed():
    raw = manifest({}).to_bytes()
    for length in range(len(raw)):
        with pytest.raises(ValueError, match="not what was written"):
            Manifest.from_bytes(raw[:length])


def test_not_a_number_is_refused_in_meta():
    with pytest.raises(ValueError, match="JSON"):
        manifest({"loss": float("nan")}).to_bytes()


def test_the_digest_covers_names_shapes_types_and_content():
    def digest(
        name: str = "w", shape: tuple[int, ...] = (2, 3), dtype: str = "float32", content: str = "ab" * 16
    ) -> str:
        return Manifest(7, {name: ArrayInfo(shape, dtype, 24, content)}, {}, {}).digest

    others = [digest("v"), digest(shape=(3, 2)), digest(dtype="int32"), digest(content="cd" * 16)]
    assert len({digest(), *others}) == 5
