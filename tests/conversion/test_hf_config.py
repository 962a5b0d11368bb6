"""config.json of published models: what is read of it, and what is refused by name."""

from pathlib import Path
from typing import Any

import pytest

from helpers.hf_goldens import golden
from pathways_lite.conversion.hf_config import ConfigReader
from pathways_lite.conversion.hf_families import read_model
from pathways_lite.errors import UserError
from pathways_lite.models.accounting import parameter_count
from pathways_lite.recipe import Model

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
