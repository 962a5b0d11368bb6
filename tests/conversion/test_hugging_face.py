"""Published models compute here what they compute in transformers, and come back as they were."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from helpers.hf_goldens import CASES, TOOL, golden, logits_and_greedy, write_published
from helpers.small_models import PALM
from pathways_lite import recipe
from pathways_lite.conversion.hf_config import ConfigReader
from pathways_lite.conversion.hf_export import export_hf
from pathways_lite.conversion.hf_families import FAMILIES, read_model
from pathways_lite.conversion.hf_import import import_hf, model_text
from pathways_lite.conversion.hf_match import family_for
from pathways_lite.conversion.hf_names import specs_by_name, tensor_shape
from pathways_lite.conversion.hf_text_part import text_config
from pathways_lite.errors import UserError
from pathways_lite.models.accounting import parameter_count
from pathways_lite.recipe import AdamW, Data, Model, Recipe, Restore, Stage
from pathways_lite.run_directory import RunDirectory
from pathways_lite.training.components import Components
from pathways_lite.training.data_position import describe_data_position
from pathways_lite.training.initialize import initialize_stage
from pathways_lite.training.load import load_model
from pathways_lite.training.stage import StageSpec

TORCH_PYTHON = os.environ.get("PATHWAYS_LITE_TORCH_PYTHON", sys.executable)
"""An interpreter that has torch and transformers."""

FOLDED = ("gemma", "gemma2", "gemma3")
"""Families whose norms compute 1 + weight, so that weights come back within one rounding of 1 + weight."""


def imported(source: Path, out: Path, tokens: int | None = None) -> Any:
    return load_model(import_hf(source, out, tokens, report=lambda line: None))


def exported(trained: Any, out: Path, dtype: str = "float32", shard_bytes: int = 10**9) -> Path:
    return export_hf(trained, out, dtype=dtype, shard_bytes=shard_bytes, report=lambda line: None)


def tensors(directory: Path) -> dict[str, np.ndarray]:
    return {name: value for path in directory.glob("*.safetensors") for name, value in load_file(path).items()}


@pytest.mark.parametrize("case", CASES)
def test_a_published_model_computes_the_same_here_and_comes_back(case: str, tmp_path: Path) -> None:
    source = write_published(tmp_path / "hf", case)
    trained = imported(source, tmp_path / "ours")
    expected = golden(case)
    logits, greedy = logits_and_greedy(case, trained.stage.model, trained.params())
    assert np.abs(logits - expected["logits"]).max() <= 1e-5 * np.abs(expected["logits"]).max()
    assert greedy == expected["greedy"]

    back = exported(trained, tmp_path / "back")
    before, after = tensors(source), tensors(back)
    assert before.keys() == after.keys()
    for name, value in before.items():
        if case in FOLDED and "norm" in name:
            np.testing.assert_allclose(1 + after[name], 1 + value, rtol=0, atol=np.spacing(np.abs(1 + value).max()))
        else:
            np.testing.assert_array_equal(after[name].view(np.uint32), value.view(np.uint32), err_msg=name)
    again = imported(back, tmp_path / "again")
    assert again.stage.model == trained.stage.model
    if case not in FOLDED:
        assert again.manifest.digest == trained.manifest.digest


@pytest.mark.parametrize(
    ("fields", "model_type"),
    [
        ({}, "cohere2_moe"),  # PaLM
        ({"norm": "layer"}, "cohere"),
        ({"block": "serial", "tie_embeddings": False}, "llama"),
        ({"block": "serial", "tie_embeddings": False, "window": (3,)}, "mistral"),
        ({"block": "serial", "tie_embeddings": False, "window": (3, None)}, None),
        ({"block": "serial", "tie_embeddings": False, "qk_norm": True, "window": (3, None)}, "qwen3"),
        ({"block": "serial", "tie_embeddings": False, "bias": ("qkv",)}, "qwen2"),
        ({"block": "serial", "norm": "layer", "tie_embeddings": False}, None),
        ({"qk_norm": True}, None),
    ],
)
def test_a_model_is_written_as_the_class_that_computes_it_or_not_at_all(fields: dict, model_type: str | None) -> None:
    model = Model.model_validate(PALM | fields)
    if model_type is None:
        with pytest.raises(UserError, match=r"no class .* cannot say (window|norm|qk_norm|block)"):
            family_for(model, 64)
        return
    family, config, folds = family_for(model, 64)
    assert (family.model_type, folds) == (model_type, False)
    again = family.model(ConfigReader(json.loads(json.dumps(config)), Path("config.json")))
    assert again.resolved_logit_scale == model.resolved_logit_scale


@pytest.mark.parametrize(("changes", "field"), [({"head_dim": 32}, "head_dim=32"), ({"n_kv_heads": 1}, "n_kv_heads=1")])
def test_a_class_without_a_key_is_not_written_with_it(changes: dict, field: str) -> None:
    """GPTNeoXForCausalLM divides hidden_size by its heads, which all have keys of their own."""
    model = read_model(ConfigReader(golden("pythia")["config"], Path("config.json")))[1]
    with pytest.raises(UserError, match=f"the nearest, gpt_neox, cannot say {field}"):
        family_for(model.model_copy(update=changes), 64)


@pytest.mark.parametrize("case", ["llama3", "qwen3", "gemma3"])
def test_the_model_is_printed_as_a_recipe_writes_it(case: str) -> None:
    model = read_model(ConfigReader(golden(case)["config"], Path("config.json")))[1]
    assert eval(model_text(model), vars(recipe)) == model


def test_a_stage_starts_from_an_imported_model(tmp_path: Path) -> None:
    trained = imported(write_published(tmp_path / "hf", "gemma2"), tmp_path / "ours", tokens=10**9)
    stage = Stage(
        model=trained.stage.model, data=Data(corpus="none", seq_len=8), optimizer=AdamW(), batch_size=1,
        budget="2 steps", start=Restore(path=str(tmp_path / "ours")),
    )  # fmt: skip
    components = Components(StageSpec(Recipe(name="tiny", stages=(stage,)), 0))
    said = describe_data_position(components.spec)
    assert said == "data begins at sequence 0; what it starts from was imported and has read no corpus here"
    start = initialize_stage(components, RunDirectory(tmp_path / "run"), lambda: 0)
    jax.tree.map(np.testing.assert_array_equal, start.state.params, trained.params())
    assert (start.step, start.parent, start.inherited.tokens) == (0, trained.manifest.digest, 10**9)
    assert trained.manifest.meta["imported"]["family"] == "gemma2"


def test_special_tokens_come_back(tmp_path: Path) -> None:
    source = write_published(tmp_path / "hf", "llama2", bos_token_id=1, eos_token_id=[2, 3])
    config = json.loads((exported(imported(source, tmp_path / "ours"), tmp_path / "back") / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, [2, 3])
    assert config["max_position_embeddings"] == 128


def test_an_imported_model_takes_the_corpus_that_is_named(tmp_path: Path, corpus: Path) -> None:
    trained = imported(write_published(tmp_path / "hf", "llama2"), tmp_path / "ours")
    with pytest.raises(UserError, match="was imported and has no corpus; name one of its tokenizer with --corpus"):
        trained.open_corpus()
    with pytest.raises(UserError, match="tokens, but the model has vocab_size=61"):
        trained.open_corpus(str(corpus))
    larger = write_published(tmp_path / "larger", "llama2", vocab_size=300)
    assert imported(larger, tmp_path / "fits").open_corpus(str(corpus)).frame.opens == 256


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_the_text_part_of_a_model_with_images_is_the_text_model(prefix: str, tmp_path: Path) -> None:
    source = write_published(tmp_path / "hf", "gemma3", eos_token_id=1)
    expected = imported(source, tmp_path / "text")
    held = {name.replace("model.", prefix, 1): value for name, value in tensors(source).items()}
    tower = {"vision_tower.head.probe": np.ones(3, np.float32), "multi_modal_projector.w": np.ones(2, np.float32)}
    save_file(held | {("model." if prefix.startswith("model") else "") + name: x for name, x in tower.items()},
              source / "model.safetensors")  # fmt: skip
    config = json.loads((source / "config.json").read_text())
    config.pop("eos_token_id")
    whole = {
        "model_type": "gemma3",
        "text_config": config,
        "vision_config": {"patch_size": 14},
        "eos_token_id": [1, 106],
    }
    (source / "config.json").write_text(json.dumps(whole))
    trained = imported(source, tmp_path / "part")
    assert trained.manifest.digest == expected.manifest.digest
    assert trained.stage.model == expected.stage.model
    assert trained.manifest.meta["imported"]["config"]["eos_token_id"] == [1, 106]
    (source / "config.json").write_text(json.dumps({"model_type": "gemma3"}))
    with pytest.raises(UserError, match="text_config=null: an object that describes the text model is expected"):
        imported(source, tmp_path / "none")


def test_the_defaults_of_gemma_3s_text_config() -> None:
    """google/gemma-3-4b-it says only these of its text model; its card's 4 B are with the vision tower."""
    inside = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024,
              "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}  # fmt: skip
    config = text_config(ConfigReader({"model_type": "gemma3", "text_config": inside}, Path("config.json")))
    model = read_model(config)[1]
    assert (model.n_heads, model.n_kv_heads, model.head_dim, model.vocab_size) == (8, 4, 256, 262_208)
    assert model.window == (*((1024,) * 5 + (None,)) * 5, *(1024,) * 4)
    assert (model.rope_base, model.local_rope_base) == (1e6, 1e4)


def test_a_scale_of_logits_that_a_class_lacks_goes_into_the_final_norm(tmp_path: Path) -> None:
    trained = imported(write_published(tmp_path / "hf", "smollm"), tmp_path / "ours")
    model = trained.stage.model.model_copy(update={"logit_scale": 0.3})
    stage = trained.stage.model_copy(update={"model": model})
    spec = StageSpec(trained.spec.recipe.model_copy(update={"stages": (stage,)}), 0)
    again = imported(exported(replace(trained, spec=spec), tmp_path / "back"), tmp_path / "again")
    assert again.stage.model == trained.stage.model
    scaled, _ = logits_and_greedy("smollm", again.stage.model, again.params())
    np.testing.assert_allclose(scaled, 0.3 * golden("smollm")["logits"], atol=1e-5)


KNOWN_SIZES = {
    # Published configs, and the parameters that their model cards or papers give.
    "meta-llama/Llama-3.1-8B": (
        {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
         "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False},
        8_030_261_248,
    ),
    "Qwen/Qwen2.5-7B": (
        {"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
         "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
        7_615_616_512,
    ),
    "google/gemma-2-2b": (
        {"model_type": "gemma2", "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
         "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 256000},
        2_614_341_888,
    ),
    "EleutherAI/pythia-1b": (
        {"model_type": "gpt_neox", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
         "num_attention_heads": 8, "vocab_size": 50304, "rotary_pct": 0.25},
        1_011_781_632,
    ),
    "allenai/OLMo-2-1124-7B": (
        {"model_type": "olmo2", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
         "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 100352, "tie_word_embeddings": False},
        7_298_617_344,
    ),
    "HuggingFaceTB/SmolLM2-135M": (
        {"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
         "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True},
        134_515_008,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN_SIZES)
def test_published_sizes_are_read_from_their_configs(name: str) -> None:
    config, parameters = KNOWN_SIZES[name]
    assert parameter_count(read_model(ConfigReader(config, Path("config.json")))[1]) == parameters


LLAMA = golden("llama2")["config"]


def read(**changes: Any) -> tuple[Any, Model, list[str]]:
    return read_model(ConfigReader(LLAMA | changes, Path("config.json")))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_type": "smollm3"}, 'model_type="smollm3": no such family'),
        ({"hidden_act": "xielu"}, 'hidden_act="xielu"'),
        ({"rope_parameters": {"rope_type": "longrope", "factor": 2}}, 'rope_parameters.rope_type="longrope"'),
        ({"rope_parameters": None, "rope_scaling": {"type": "dynamic"}}, 'rope_scaling.rope_type="dynamic"'),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope_parameters lacks 'original_max"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 8, "mrope": [1]}}, "rope_parameters.mrope"),
        ({"quantization_config": {"bits": 4}}, "quantization_config="),
        ({"residual_multiplier": 0.22}, "residual_multiplier=0.22"),
        ({"num_experts": 8}, "num_experts=8"),
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"num_hidden_layers": "3"}, 'num_hidden_layers="3": a positive whole number is expected'),
        ({"num_key_value_heads": 3}, "describes no model that can be computed here: .*not a multiple"),
        ({"model_type": "mistral", "layer_types": ["full_attention"] * 3}, None),
    ],
)  # fmt: skip
def test_what_cannot_be_computed_is_refused_by_the_name_of_its_key(changes: dict, sentence: str | None) -> None:
    if sentence is None:
        assert "layer_types" in read(**changes)[2]  # listed
        return
    with pytest.raises(UserError, match=sentence.replace("(", r"\(").replace("[", r"\[")):
        read(**changes)


def test_keys_of_both_versions_of_transformers_are_read() -> None:
    new = {"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                               "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}  # fmt: skip
    old = {"rope_theta": 5e5, "rope_scaling": {k: v for k, v in new["rope_parameters"].items() if k != "rope_theta"}}
    older = old | {"rope_scaling": {("type" if k == "rope_type" else k): v for k, v in old["rope_scaling"].items()}}
    _, model, unknown = read(**new)
    assert (model.rope_base, model.rope_scaling.original_length, unknown) == (5e5, 8192, [])
    assert read(rope_parameters=None, **old)[1] == model == read(rope_parameters=None, **older)[1]
    assert read(head_dim=None)[1].head_dim == 8
    assert read(chat_template_version=3)[2] == ["chat_template_version"]


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


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_transformers_loads_what_is_written_and_computes_the_same(case: str, tmp_path: Path) -> None:
    probe = subprocess.run([TORCH_PYTHON, "-c", "import torch, transformers"], capture_output=True)
    if probe.returncode:
        pytest.skip(f"torch and transformers are not installed in {TORCH_PYTHON}; see PATHWAYS_LITE_TORCH_PYTHON")
    trained = imported(write_published(tmp_path / "hf", case), tmp_path / "ours")
    back, result = exported(trained, tmp_path / "back"), tmp_path / "result.json"
    command = [TORCH_PYTHON, str(TOOL), str(result), "--load", str(back), "--case", case]
    subprocess.run(command, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True)
    theirs = json.loads(result.read_text())
    assert theirs["wrong"] == []
    assert theirs["class"] == FAMILIES[golden(case)["config"]["model_type"]].architecture
    logits, greedy = logits_and_greedy(case, trained.stage.model, trained.params())
    assert np.abs(logits - theirs["logits"]).max() <= 1e-5 * np.abs(logits).max()
    assert greedy == theirs["greedy"] == golden(case)["greedy"]
