"""The train steps of nanoGPT and of litgpt: their models, with clipping and fused AdamW, eager or compiled."""

import importlib
import os
import sys
from typing import Any

import torch
from timed_steps import report, settings
from torch.nn.functional import cross_entropy

sizes = settings()
torch.manual_seed(0)
torch.set_num_threads(sizes["threads"])
if sizes["stack"] == "nanogpt":
    sys.path.insert(0, os.environ["NANOGPT"])
    nanogpt = importlib.import_module("model")
    model = nanogpt.GPT(
        nanogpt.GPTConfig(
            block_size=sizes["sequence"], vocab_size=sizes["vocab_size"], n_layer=sizes["n_layers"],
            n_head=sizes["n_heads"], n_embd=sizes["d_model"], dropout=0.0, bias=False,
        )
    )  # fmt: skip
else:
    from litgpt import GPT, Config

    model = GPT(
        Config(
            name="peer", block_size=sizes["sequence"], vocab_size=sizes["vocab_size"],
            padded_vocab_size=sizes["vocab_size"], n_layer=sizes["n_layers"], n_head=sizes["n_heads"],
            n_query_groups=sizes["n_heads"], n_embd=sizes["d_model"], intermediate_size=sizes["d_ff"],
            mlp_class_name="LLaMAMLP", norm_class_name="RMSNorm", rotary_percentage=1.0, parallel_residual=False,
            bias=False,
        )
    )  # fmt: skip
    model.lm_head.weight = model.transformer.wte.weight  # tied, as in the others

net = torch.compile(model) if sizes["way"] == "compiled" else model
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
text = torch.randint(0, sizes["vocab_size"], (sizes["batch"], sizes["sequence"] + 1))
tokens, targets = text[:, :-1].contiguous(), text[:, 1:].contiguous()


def loss() -> Any:
    if sizes["stack"] == "nanogpt":
        return net(tokens, targets)[1]
    return cross_entropy(net(tokens).flatten(0, 1), targets.flatten())


def run() -> None:
    loss().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


report(run, sizes["steps"])
