"""GGUF files compute here what the models that they were made of do, and what cannot be read is refused."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from helpers.gguf_models import (
    ARCHITECTURES,
    BLOCKS,
    gguf,
    llama3_factors,
    metadata_of,
    stored,
    tensors_of,
    write,
    write_gguf,
)
from helpers.hf_goldens import golden, logits_and_greedy, write_published
from pathways_lite.conversion.gguf_files import GGUFReader
from pathways_lite.conversion.gguf_import import import_gguf
from pathways_lite.conversion.gguf_rope import llama3_parameters
from pathways_lite.conversion.hf_import import import_hf
from pathways_lite.errors import UserError
from pathways_lite.training.load import load_model


def imported(source: Path, out: Path) -> Any:
    return load_model(import_gguf(source, out, None, report=lambda line: None))


def params_equal(one: Any, other: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32)), one, other)


@pytest.mark.parametrize("case", ARCHITECTURES)
def test_a_file_is_the_model_that_it_was_made_of(case: str, tmp_path: Path) -> None:
    published = load_model(
        import_hf(write_published(tmp_path / "hf", case), tmp_path / "hf_ours", None, lambda line: None)
    )
    drop = {"window": None} if case == "qwen2" else {}  # llama.cpp's converter leaves out Qwen's window
    trained = imported(write_gguf(tmp_path / "model.gguf", case), tmp_path / "ours")
    assert trained.stage.model == published.stage.model.model_copy(update=drop)
    assert trained.stage.data.seq_len == published.stage.data.seq_len == 128
    params_equal(trained.params(), published.params())
    if not drop:
        logits, greedy = logits_and_greedy(case, trained.stage.model, trained.params())
        expected = golden(case)
        assert np.abs(logits - expected["logits"]).max() <= 1e-5 * np.abs(expected["logits"]).max()
        assert greedy == expected["greedy"]
    assert trained.manifest.meta["imported"]["from"] == "gguf"


@pytest.mark.parametrize(("kind", "rounding"), [("F16", np.float16), ("BF16", None)])
def test_half_precision_is_widened_exactly(kind: str, rounding: Any, tmp_path: Path) -> None:
    import ml_dtypes

    whole = imported(write_gguf(tmp_path / "whole.gguf", "smollm"), tmp_path / "a").params()
    half = imported(write_gguf(tmp_path / "half.gguf", "smollm", kind), tmp_path / "b").params()
    expected = jax.tree.map(
        lambda x: (
            x if x.ndim == 1 or x.shape == (3, 32) else x.astype(rounding or ml_dtypes.bfloat16).astype(np.float32)
        ),
        whole,
    )
    params_equal(half, expected)


WIDE = {
    "vocab_size": 61, "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}  # fmt: skip
"""A Llama whose rows hold whole blocks of every type."""


def wide_tensors() -> dict[str, np.ndarray]:
    layer = {
        "input_layernorm.weight": [256], "post_attention_layernorm.weight": [256],
        "self_attn.q_proj.weight": [256, 256], "self_attn.k_proj.weight": [128, 256],
        "self_attn.v_proj.weight": [128, 256],
        "self_attn.o_proj.weight": [256, 256], "mlp.gate_proj.weight": [256, 256], "mlp.up_proj.weight": [256, 256],
        "mlp.down_proj.weight": [256, 256],
    }  # fmt: skip
    shapes = {f"model.layers.{i}.{name}": shape for i in range(2) for name, shape in layer.items()}
    shapes |= {"model.embed_tokens.weight": [61, 256], "model.norm.weight": [256]}
    return tensors_of("smollm", WIDE, shapes)


@pytest.mark.parametrize("kind", BLOCKS)
def test_quantized_numbers_are_those_of_the_package(kind: str, tmp_path: Path) -> None:
    """The same model as with the package's dequantization stored in float32."""
    tensors, values = wide_tensors(), metadata_of("smollm", WIDE)
    widened = {
        name: value if value.ndim == 1
        else gguf.quants.dequantize(stored(name, value, kind), gguf.GGMLQuantizationType[kind])
        for name, value in tensors.items()
    }  # fmt: skip
    quantized = imported(write(tmp_path / "q.gguf", "llama", values, tensors, kind), tmp_path / "q")
    plain = imported(write(tmp_path / "f.gguf", "llama", values, widened), tmp_path / "f")
    params_equal(quantized.params(), plain.params())
    assert np.isfinite(quantized.params()["embedding"]).all()
    assert quantized.manifest.meta["imported"]["quantized"] == [kind]


def test_a_block_of_each_type_is_what_its_format_says() -> None:
    """Known answers by hand, of ggml's block formats (ggml-common.h)."""
    half = lambda x: np.float16([x]).view(np.uint8).tolist()  # noqa: E731
    nibbles = [(i % 16) | ((15 - i % 16) << 4) for i in range(16)]
    low, high = np.arange(16), 15 - np.arange(16)
    both = np.concatenate([low, high])
    known = {
        "Q8_0": (half(0.5) + [(i - 16) % 256 for i in range(32)], 0.5 * (np.arange(32) - 16)),
        "Q4_0": (half(0.5) + nibbles, 0.5 * (both - 8)),
        "Q4_1": (half(0.5) + half(-3) + nibbles, 0.5 * both - 3),
        # Eight groups of 32, each with 6-bit scale 2 and minimum 1: d * 2 * q - dmin * 1.
        "Q4_K": (half(0.5) + half(0.25) + [2] * 4 + [1] * 4 + [(2 | (1 << 4))] * 4 + (nibbles * 2) * 4,
                 np.concatenate([np.tile(low, 2), np.tile(high, 2)] * 4) - 0.25),
        # 16 groups of 16 with 8-bit scale 3: d * 3 * (q - 32), where all low bits are 5 and all high bits 2.
        "Q6_K": ([0x55] * 128 + [0b10101010] * 64 + [3] * 16 + half(0.5), np.full(256, 0.5 * 3 * (5 + 2 * 16 - 32))),
    }  # fmt: skip
    for kind, (block, expected) in known.items():
        value = gguf.quants.dequantize(np.array([block], np.uint8), gguf.GGMLQuantizationType[kind])
        np.testing.assert_allclose(value[0], expected, err_msg=kind)


def test_shards_are_read_from_any_of_them(tmp_path: Path) -> None:
    whole = imported(write_gguf(tmp_path / "whole.gguf", "qwen3"), tmp_path / "ours")
    config = golden("qwen3")["config"]
    values, tensors = metadata_of("qwen3", config), tensors_of("qwen3", config, golden("qwen3")["shapes"])
    halves = [dict(list(tensors.items())[:10]), dict(list(tensors.items())[10:])]
    first, second = (tmp_path / f"m-0000{i}-of-00002.gguf" for i in (1, 2))
    writer = write(first, "qwen3", values, halves[0])
    write(second, "qwen3", {}, halves[1])
    for name, path in {"a": writer, "b": second}.items():
        params_equal(imported(path, tmp_path / name).params(), whole.params())
    second.unlink()
    with pytest.raises(UserError, match=r"lacks m-00002-of-00002\.gguf of the 2 shards"):
        imported(first, tmp_path / "c")
    shutil.copy(first, second)
    with pytest.raises(UserError, match=r"is in m-00001-of-00002.gguf and in m-00002-of-00002.gguf"):
        imported(first, tmp_path / "c")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"expert_count": 8}, "llama.expert_count=8: the decoder here does not compute that"),
        ({"rope.scaling.type": "longrope"}, 'llama.rope.scaling.type="longrope": there are none, linear and yarn'),
        ({"rope.scaling.type": "yarn", "rope.scaling.factor": 2.0, "rope.scaling.attn_factor": 0.5}, "attn_factor=0.5"),
        ({"rope.dimension_count": 4}, "llama.rope.dimension_count=4: all 8 dimensions of a head rotate"),
        ({"attention.value_length": 16}, "llama.attention.value_length=16"),
        ({"attention.head_count_kv": [2, 1, 2]}, "layers of different sizes"),
        ({"embedding_length": "wide"}, 'llama.embedding_length="wide": a positive whole number is expected'),
        ({"attention.head_count": 0}, "llama.attention.head_count=0: a positive whole number is expected"),
        ({"rope.freq_base": "high"}, 'llama.rope.freq_base="high": a positive number is expected'),
        ({"rope.scaling.factor": -2.0}, "llama.rope.scaling.factor=-2.0: a positive number is expected"),
        ({"residual_scale": 0.2}, "llama.residual_scale=0.2"),
        ({"attention.head_count": 3}, "describes no model that can be computed here"),
        ({"feed_forward_length": 64}, r"blk.0.ffn_gate.weight in .* is \(48, 32\); its metadata says \(64, 32\)"),
        ({"block_count": 4}, "the files have no tensor blk.3.* and 8 more, which its metadata asks for"),
        ({"block_count": 2}, r"blk.2.* and 8 more have no place in the model that its metadata says"),
    ],
)  # fmt: skip
def test_what_cannot_be_computed_is_refused_by_the_name_of_its_key(
    changes: dict, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        imported(write_gguf(tmp_path / "model.gguf", "smollm", **changes), tmp_path / "ours")
    assert not list(tmp_path.glob("ours/step*"))


def test_what_llama_cpp_leaves_unsaid_is_what_its_code_says(tmp_path: Path) -> None:
    drop = ("attention.scale", "attention.sliding_window", "attn_logit_softcapping", "final_logit_softcapping")
    model = imported(write_gguf(tmp_path / "a.gguf", "gemma2", drop=drop), tmp_path / "a").stage.model
    assert model.window == (4096, None, 4096)
    assert (model.attention_scale, model.attention_soft_cap, model.logit_soft_cap) == (16**-0.5, 50.0, 30.0)
    bare = ("attention.key_length", "attention.value_length", "rope.freq_base", "rope.dimension_count")
    model = imported(write_gguf(tmp_path / "b.gguf", "smollm", drop=bare), tmp_path / "b").stage.model
    assert (model.head_dim, model.rope_base, model.tie_embeddings) == (8, 1e4, True)
    old = {"rope.scale_linear": 4.0}
    model = imported(write_gguf(tmp_path / "c.gguf", "smollm", **old), tmp_path / "c").stage.model
    assert (model.rope_scaling.kind, model.rope_scaling.factor) == ("linear", 4.0)
    pattern = {"attention.sliding_window_pattern": [True, True, False]}
    spelled_out = imported(write_gguf(tmp_path / "d.gguf", "gemma3", **pattern), tmp_path / "d").stage.model
    assert spelled_out.window == (5, 5, None)


def test_unknown_keys_are_listed(tmp_path: Path) -> None:
    lines: list[str] = []
    import_gguf(write_gguf(tmp_path / "model.gguf", "smollm", flavor=3), tmp_path / "ours", None, lines.append)
    assert "taken to change nothing: llama.flavor" in lines[0]


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(
    ("factor", "low", "high", "length"), [(32.0, 1.0, 4.0, 8192), (8.0, 1.0, 4.0, 8192), (8.0, 1.0, 3.0, 4096)]
)
def test_llama3_scaling_is_found_from_its_table(
    factor: float, low: float, high: float, length: int, head_dim: int
) -> None:
    rope = {"rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
            "original_max_position_embeddings": length}  # fmt: skip
    table = llama3_factors({"head_dim": head_dim, "rope_parameters": rope | {"rope_theta": 5e5}})
    assert llama3_parameters(table, 5e5) == rope
    table[3] *= 1.01
    assert llama3_parameters(table, 5e5) is None


def test_files_that_are_not_whole_are_refused_in_a_sentence(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "model.gguf", "smollm")
    content = file.read_bytes()

    def refused(path: Path, sentence: str) -> None:
        with pytest.raises(UserError, match=sentence):
            imported(path, tmp_path / "ours")
        assert not list(tmp_path.glob("ours/step*"))

    for length in (len(content) - 100, len(content) // 2, 400, 30, 4):
        file.write_bytes(content[:length])
        refused(file, rf"model.gguf is no whole GGUF file: its {length:,} bytes end before .*; download it again")
    file.write_bytes(content[:3])
    refused(file, "is no GGUF file: it begins with b'GGU'")
    file.write_bytes(b"PK" + content[2:])
    refused(file, "is no GGUF file: it begins with b'PKUF'")
    file.write_bytes(content[:4] + b"\x09" + content[5:])
    refused(file, "version 9")
    refused(tmp_path / "absent.gguf", "no such file; nothing is downloaded")
    refused(tmp_path, "is a directory; name a GGUF file, such as .*model.gguf")
    refused(write(tmp_path / "m.gguf", "mamba", {"block_count": 1}, {"a": np.ones(1, np.float32)}),
            'general.architecture="mamba": no such architecture here; there are llama,')  # fmt: skip
    tensors = tensors_of("smollm", golden("smollm")["config"], golden("smollm")["shapes"])
    tensors["output_norm.weight"] = np.ones(32, np.int32)
    integers = write(tmp_path / "i.gguf", "llama", metadata_of("smollm", golden("smollm")["config"]), tensors)
    refused(integers, "output_norm.weight in .* is of type I32")


def test_one_row_is_read_without_the_others(tmp_path: Path) -> None:
    tensors = wide_tensors()
    reader = GGUFReader(write(tmp_path / "q.gguf", "llama", metadata_of("smollm", WIDE), tensors, "Q4_1"))
    name = "token_embd.weight"
    np.testing.assert_array_equal(reader.read(name, slice(5, 7)), reader.read(name)[5:7])
    assert reader.tensors[name].shape == tensors[name].shape


MEASURE = """
import sys
from pathlib import Path
from pathways_lite.conversion.gguf_import import import_gguf

def resident(field):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if field in line)

source, out, warm = map(Path, sys.argv[1:])
import_gguf(warm, out / "warm", None, lambda line: None)  # a tiny model first, so that code is loaded
before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # resets the peak
import_gguf(source, out / "ours", None, lambda line: None)
print(1024 * (resident("VmHWM") - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured by /proc")
def test_memory_grows_by_less_than_twice_the_largest_array(tmp_path: Path) -> None:
    """The file's mapped pages included, of a model of 67 M parameters in Q8_0 whose embedding has 128 MiB here."""
    config = WIDE | {"vocab_size": 131_072, "hidden_size": 256, "intermediate_size": 8192, "num_hidden_layers": 4}
    layer = {
        "input_layernorm.weight": [256],
        "post_attention_layernorm.weight": [256],
        "self_attn.q_proj.weight": [256, 256],
        "self_attn.k_proj.weight": [128, 256],
        "self_attn.v_proj.weight": [128, 256],
        "self_attn.o_proj.weight": [256, 256],
        "mlp.gate_proj.weight": [8192, 256],
        "mlp.up_proj.weight": [8192, 256],
        "mlp.down_proj.weight": [256, 8192],
    }
    shapes = {f"model.layers.{i}.{name}": shape for i in range(4) for name, shape in layer.items()}
    shapes |= {"model.embed_tokens.weight": [131_072, 256], "model.norm.weight": [256]}
    tensors = tensors_of("smollm", config, shapes)
    source = write(tmp_path / "large.gguf", "llama", metadata_of("smollm", config), tensors, "Q8_0")
    warm = write_gguf(tmp_path / "small.gguf", "smollm")
    command = [sys.executable, "-c", MEASURE, str(source), str(tmp_path / "out"), str(warm)]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown < 2 * 4 * 131_072 * 256
