"""Make the golden outputs that the conversion of Hugging Face models is tested against.

    python tools/make_hf_goldens.py tests/conversion/hf_goldens      # needs torch and transformers, and nothing of ours

Each case is a tiny model of one family. Its weights are drawn from its tensors' names by NumPy, so they are not stored;
stored are config.json as transformers writes it, the tensors' shapes, and what transformers computes in float32: logits
of `TOKENS` random tokens, and `GREEDY` tokens after the first `PROMPT` of them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

TOKENS, PROMPT, GREEDY = 24, 8, 32

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "attention_dropout": 0.0,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e3, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e3, "factor": 4.0, "original_max_position_embeddings": 32}
FULL, SLIDING = "full_attention", "sliding_attention"
GEMMA3_ROPE = {
    SLIDING: {"rope_type": "default", "rope_theta": 100.0},
    FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e4},
}
DENSE: dict[str, Any] = {
    "mlp_layer_types": ["dense"] * 3, "layer_types": [FULL] * 3, "prefix_dense_intermediate_size": 48,
    "prefix_dense_sliding_window_pattern": 1, "rms_norm_eps": 1e-6,
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama2": ("Llama", {"rms_norm_eps": 1e-5}),
    "llama3": ("Llama", {"rope_parameters": LLAMA3, "head_dim": 12, "attention_bias": True, "mlp_bias": True}),
    "smollm": ("Llama", {"tie_word_embeddings": True, "rms_norm_eps": 1e-5}),
    "mistral": ("Mistral", {"sliding_window": 5}),
    "qwen2": ("Qwen2", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"head_dim": 16, "rope_parameters": YARN}),
    "gemma": ("Gemma", {"head_dim": 16, "num_key_value_heads": 1}),
    "gemma2": ("Gemma2", {"head_dim": 16, "sliding_window": 5, "query_pre_attn_scalar": 24, "layer_types": [SLIDING, FULL, SLIDING]}),  # noqa: E501
    "gemma3": ("Gemma3Text", {"head_dim": 16, "sliding_window": 5, "query_pre_attn_scalar": 16, "layer_types": [SLIDING, SLIDING, FULL], "rope_parameters": GEMMA3_ROPE}),  # noqa: E501
    "olmo2": ("Olmo2", {}),
    "pythia": ("GPTNeoX", {"num_attention_heads": 2}),
    "cohere": ("Cohere", {"logit_scale": 0.25, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}),
    "palm": ("Cohere2Moe", {"num_key_value_heads": 1, "head_dim": 12, "logit_scale": 32**-0.5, **DENSE}),
}  # fmt: skip
"""Family and what differs from `SIZES`, by case."""


def draw(case: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draw a tensor by its name: float32, of a size at which a forgotten factor shows in the logits."""
    values = np.random.default_rng([zlib.crc32(case.encode()), zlib.crc32(name.encode())]).standard_normal(shape)
    if name.endswith("bias"):
        values *= 0.3
    elif "norm" in name:
        values = 0.2 * values + (0.0 if case.startswith("gemma") else 1.0)
    elif "embed_tokens" in name or "embed_in" in name:
        values *= 0.5
    else:
        values *= 1.2 * shape[1] ** -0.5
    return values.astype(np.float32)


def tokens(case: str) -> np.ndarray:
    """Draw the tokens of a case, int64 [1, TOKENS]."""
    return np.random.default_rng(zlib.crc32(case.encode())).integers(0, SIZES["vocab_size"], (1, TOKENS))


def make_case(case: str) -> tuple[dict[str, Any], np.ndarray]:
    """Compute a case: config, shapes and greedy tokens, and logits float32 [TOKENS, V]."""
    import torch
    import transformers
    from safetensors.numpy import load_file

    family, changes = CASES[case]
    config = getattr(transformers, f"{family}Config")(**(SIZES | changes))
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{family.removesuffix('Text')}ForCausalLM")(config).eval().float()
    # transformers 5 names GPT-NeoX's head otherwise than its files do.
    head = "embed_out" if family == "GPTNeoX" else "lm_head"
    published = {name: name.replace("lm_head", head) for name in model.state_dict()}
    if config.tie_word_embeddings:
        published.pop("lm_head.weight")
    state = {name: draw(case, published[name], tuple(model.state_dict()[name].shape)) for name in published}
    model.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()}, strict=False)
    model.tie_weights()
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        assert set(load_file(Path(directory) / "model.safetensors")) == set(published.values())
    with torch.no_grad():
        logits = model(torch.from_numpy(tokens(case))).logits[0].numpy()
    shapes = {published[name]: list(value.shape) for name, value in state.items()}
    stored = {"config": json.loads(config.to_json_string(use_diff=False)), "shapes": shapes}
    return stored | {"greedy": greedy(model, tokens(case)[:, :PROMPT])}, logits


def greedy(model: Any, prompt: np.ndarray) -> list[int]:
    """Continue the prompt by the most likely token, without a cache."""
    import torch

    sequence = torch.from_numpy(prompt)
    with torch.no_grad():
        for _ in range(GREEDY):
            sequence = torch.cat([sequence, model(sequence).logits[:, -1:].argmax(-1)], dim=1)
    return [int(token) for token in sequence[0, prompt.shape[1] :]]


def write_checkpoint(directory: Path, case: str, golden: dict[str, Any]) -> None:
    """Write a case's config.json and safetensors, as transformers would, from what is stored of it."""
    from safetensors.numpy import save_file

    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: draw(case, name, tuple(shape)) for name, shape in golden["shapes"].items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(golden["config"]))


def logits_of_directory(directory: Path, token_ids: np.ndarray) -> dict[str, Any]:
    """Load a directory by its own class; return logits, greedy tokens, and tensors missing or too many."""
    import torch
    import transformers

    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(token_ids)).logits[0].numpy()
    wrong = [key for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in info[kind]]
    return {
        "logits": logits.tolist(),
        "greedy": greedy(model, token_ids[:, :PROMPT]),
        "wrong": [str(key) for key in wrong],
        "class": type(model).__name__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="directory for goldens.json and goldens.npz")
    parser.add_argument("--load", type=Path, help="print logits of the model in this directory instead, as JSON")
    parser.add_argument("--case", default="llama2", help="with --load: whose tokens")
    arguments = parser.parse_args()
    if arguments.load is not None:
        arguments.out.write_text(json.dumps(logits_of_directory(arguments.load, tokens(arguments.case))))
        return
    import torch
    import transformers

    goldens, logits = {}, {}
    for case in CASES:
        goldens[case], logits[case] = make_case(case)
        print(f"{case}: largest logit {np.abs(logits[case]).max():.2f}")
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": np.__version__}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "goldens.json").write_text(json.dumps({"versions": versions, "cases": goldens}, indent=1) + "\n")
    np.savez_compressed(arguments.out / "goldens.npz", allow_pickle=False, **logits)


if __name__ == "__main__":
    main()
