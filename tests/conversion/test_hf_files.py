"""Files of published models: damaged, sharded, of other versions, and larger than is held in memory."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from helpers.hf_goldens import exported, golden, imported, tensors, write_published
from pathways_lite.conversion.hf_config import ConfigReader
from pathways_lite.conversion.hf_families import FAMILIES, read_model
from pathways_lite.conversion.hf_names import specs_by_name, tensor_shape
from pathways_lite.errors import UserError
from pathways_lite.models.accounting import parameter_count


def test_files_that_are_not_whole_are_refused_in_a_sentence(tmp_path: Path) -> None:
    out = tmp_path / "ours"

    @contextlib.contextmanager
    def refused(sentence: str) -> Iterator[Path]:
        source = write_published(tmp_path / "hf", "smollm")
        yield source
        with pytest.raises(UserError, match=sentence):
            imported(source, out)
        assert not list(tmp_path.glob("ours/step*")), "nothing that looks whole is left"
        for path in source.iterdir():
            path.unlink()

    def change(source: Path, **changes: np.ndarray | None) -> None:
        held = load_file(source / "model.safetensors")
        for name, value in changes.items():
            held.pop(name) if value is None else held.update({name: value})
        save_file(held, source / "model.safetensors")

    norm, head = "model.norm.weight", "lm_head.weight"
    with refused("is no whole safetensors file") as source:
        file = source / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
    with refused("no tensor model.norm.weight") as source:
        change(source, **{norm: None})
    with refused(r"model.norm.weight in .* is \(31,\); config.json says \(32,\)") as source:
        change(source, **{norm: np.ones(31, np.float32)})
    with refused("model.layers.0.extra.weight in .* has no place") as source:
        change(source, **{"model.layers.0.extra.weight": np.ones(3, np.float32)})
    with refused("tie_word_embeddings, but lm_head.weight is another tensor") as source:
        change(source, **{head: np.ones((61, 32), np.float32)})
    with refused("model.norm.weight in .* is of dtype I32") as source:
        change(source, **{norm: np.ones(32, np.int32)})
    with refused("model.norm.weight is in .* and in ") as source:
        save_file({norm: np.ones(32, np.float32)}, source / "more.safetensors")
    with refused("lacks model-00002-of-00002.safetensors") as source:
        index = {"weight_map": {norm: "model.safetensors", head: "model-00002-of-00002.safetensors"}}
        (source / "model.safetensors.index.json").write_text(json.dumps(index))
    with refused("pytorch_model.bin and no safetensors files; a pickle can run any program") as source:
        (source / "model.safetensors").rename(source / "pytorch_model.bin")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"model.gguf is a file, and .*; did you mean --from gguf"):
        imported(tmp_path / "model.gguf", out)
    with pytest.raises(UserError, match="no such directory; nothing is downloaded"):
        imported(tmp_path / "meta-llama" / "Llama-3.2-1B", out)
    with refused("has no config.json") as source:
        (source / "config.json").unlink()


def test_constants_of_old_files_and_copies_of_the_embedding_are_left_out(tmp_path: Path) -> None:
    source = write_published(tmp_path / "hf", "smollm")
    digest = imported(source, tmp_path / "ours").manifest.digest
    held = load_file(source / "model.safetensors")
    held["lm_head.weight"] = held["model.embed_tokens.weight"].copy()
    held["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    save_file(held, source / "model.safetensors")
    assert imported(source, tmp_path / "again").manifest.digest == digest


def test_shards_and_bfloat16_are_what_the_library_reads(tmp_path: Path) -> None:
    trained = imported(write_published(tmp_path / "hf", "qwen3"), tmp_path / "ours", tokens=10**9)
    assert trained.cost.flops == 6 * 10**9 * parameter_count(trained.stage.model)
    sharded = exported(trained, tmp_path / "sharded", "bfloat16", shard_bytes=20_000)
    files = sorted(sharded.glob("*.safetensors"))
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    assert len(files) > 2
    assert max(path.stat().st_size for path in files) < 25_000
    assert {path.name for path in files} == set(index["weight_map"].values())
    assert index["metadata"]["total_size"] == 2 * parameter_count(trained.stage.model)
    whole = tensors(exported(trained, tmp_path / "whole"))
    for name, value in tensors(sharded).items():
        np.testing.assert_array_equal(value, whole[name].astype(value.dtype), err_msg=name)
    rounded = imported(sharded, tmp_path / "rounded")
    assert tensors(exported(rounded, tmp_path / "twice", "bfloat16")).keys() == whole.keys()
    assert imported(tmp_path / "twice", tmp_path / "same").manifest.digest == rounded.manifest.digest
    with pytest.raises(UserError, match="sharded is not empty"):
        exported(trained, sharded)


MEASURE = """
import sys
from pathlib import Path
from pathways_lite.conversion.hf_export import export_hf
from pathways_lite.conversion.hf_import import import_hf
from pathways_lite.training.load import load_model

def resident(field):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if field in line)

source, out, warm = map(Path, sys.argv[1:])
quiet = lambda line: None
def both(source, out):  # a tiny model first, so that code and its libraries are loaded
    path = import_hf(source, out / "ours", None, quiet)
    export_hf(load_model(path), out / "back", dtype="float32", shard_bytes=10**8, report=quiet)
both(warm, out / "warm")
before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # resets the peak
both(source, out)
print(1024 * (resident("VmHWM") - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured by /proc")
def test_memory_grows_by_less_than_twice_the_largest_array(tmp_path: Path) -> None:
    """In both directions, for a model of 90 M parameters whose embedding has 128 MiB."""
    sizes = {"vocab_size": 32_768, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128}
    config = golden("llama2")["config"] | sizes | heads
    model = read_model(ConfigReader(config, Path("config.json")))[1]
    specs = specs_by_name(model)
    held = {}
    for tensor in FAMILIES["llama"].tensors(model):
        for layer in range(2 if "{i}" in tensor.name else 1):
            held[tensor.name.format(i=layer)] = np.ones(tensor_shape(tensor, specs), np.float32)
    source = tmp_path / "large"
    source.mkdir()
    save_file(held, source / "model.safetensors")
    (source / "config.json").write_text(json.dumps(config))
    warm = write_published(tmp_path / "small", "llama2")
    command = [sys.executable, "-c", MEASURE, str(source), str(tmp_path / "out"), str(warm)]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown < 2 * 4 * 32_768 * 1024
