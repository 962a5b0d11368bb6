"""Published models compute here what they compute in transformers, and come back as they were."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from helpers.hf_goldens import CASES, TOOL, exported, golden, imported, logits_and_greedy, tensors, write_published
from helpers.small_models import PALM
from pathways_lite import recipe
from pathways_lite.conversion.hf_config import ConfigReader
from pathways_lite.conversion.hf_families import FAMILIES, read_model
from pathways_lite.conversion.hf_import import model_text
from pathways_lite.conversion.hf_match import family_for
from pathways_lite.conversion.hf_text_part import text_config
from pathways_lite.errors import UserError
from pathways_lite.recipe import AdamW, Data, Model, Recipe, Restore, Stage
from pathways_lite.run_directory import RunDirectory
from pathways_lite.training.components import Components
from pathways_lite.training.data_position import describe_data_position
from pathways_lite.training.initialize import initialize_stage
from pathways_lite.training.stage import StageSpec

TORCH_PYTHON = os.environ.get("PATHWAYS_LITE_TORCH_PYTHON", sys.executable)
"""An interpreter that has torch and transformers."""

FOLDED = ("gemma", "gemma2", "gemma3")
"""Families whose norms compute 1 + weight, so that weights come back within one rounding of 1 + weight."""


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
