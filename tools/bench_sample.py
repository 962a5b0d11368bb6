#!/usr/bin/env python3
"""Tokens per second of sampling, beside rows one by one and transformers' generate. Prints one JSON line.

    python tools/bench_sample.py
    python tools/bench_sample.py --rows 128 --prompt 512 --torch PYTHON      PYTHON has torch and transformers

A Llama-style model with random weights (3.2 M parameters by default), one prompt for all rows, temperature 1, no end.
`sampler`: all rows at once. `one_by_one`: the same texts with one row. `transformers`: a model of the same sizes, its
`generate` with `do_sample`, on as many threads as there are cores. All are timed in turn, the best of `--rounds` each
counts, and compiling does not.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from pathways_lite import models
from pathways_lite.models.accounting import parameter_count
from pathways_lite.objectives.prompts import Prompt
from pathways_lite.recipe import Model
from pathways_lite.sampling import Request, Sampler, Sampling

MODEL = Model(
    d_model=192, n_layers=6, n_heads=6, n_kv_heads=2, head_dim=32, d_ff=512, vocab_size=4096, block="serial",
    dtype="float32",
)  # fmt: skip

TORCH = """
import json, sys, time, torch
from transformers import LlamaConfig, LlamaForCausalLM
sizes, rows, prompt, new, threads = json.loads(sys.argv[1])
torch.set_num_threads(threads)
model = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
tokens = torch.randint(1, sizes["vocab_size"], (1, prompt)).repeat(rows, 1)
for line in sys.stdin:
    begin = time.perf_counter()
    with torch.no_grad():
        model.generate(tokens, do_sample=True, top_k=0, max_new_tokens=new, min_new_tokens=new, pad_token_id=0)
    print(time.perf_counter() - begin, flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=64, help="tokens of the prompt")
    parser.add_argument("--new", type=int, default=128, help="tokens to draw after it")
    parser.add_argument("--top-p", type=float, help="of the sampler alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torch", type=Path, help="a Python with torch and transformers")
    arguments = parser.parse_args()
    params = jax.jit(models.init, static_argnums=0)(MODEL, jax.random.key(0))
    tokens = np.random.default_rng(0).integers(1, MODEL.vocab_size, arguments.prompt).tolist()
    request = Request(Prompt(tokens, 0, -1), Sampling(top_p=arguments.top_p), arguments.new, arguments.rows)
    sampler = Sampler.of_params(MODEL, params, (), rows=arguments.rows)
    single = dataclasses.replace(sampler, rows=1)
    one = dataclasses.replace(request, samples=1)
    timed: dict[str, Callable[[], float]] = {
        "sampler": lambda: seconds(lambda: list(sampler.sample([request]))),
        "one_by_one": lambda: arguments.rows * seconds(lambda: list(single.sample([one]))),
    }
    if arguments.torch:
        process = _torch(arguments)
        timed["transformers"] = lambda: _ask(process)
    for measure in timed.values():
        measure()  # compiles
    best = {name: min(measure() for _ in range(arguments.rounds)) for name, measure in timed.items()}
    speed = {f"{name}_tokens_per_s": round(arguments.rows * arguments.new / s) for name, s in best.items()}
    sizes = {"rows": arguments.rows, "prompt": arguments.prompt, "new": arguments.new, "top_p": arguments.top_p}
    print(json.dumps({"parameters": parameter_count(MODEL), **sizes, "cores": os.cpu_count(), **speed}))


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _torch(arguments: argparse.Namespace) -> subprocess.Popen[str]:
    sizes = {
        "hidden_size": MODEL.d_model, "num_hidden_layers": MODEL.n_layers, "num_attention_heads": MODEL.n_heads,
        "num_key_value_heads": MODEL.n_kv_heads, "head_dim": MODEL.head_dim, "intermediate_size": MODEL.d_ff,
        "vocab_size": MODEL.vocab_size, "tie_word_embeddings": True,
    }  # fmt: skip
    given = json.dumps([sizes, arguments.rows, arguments.prompt, arguments.new, os.cpu_count()])
    command = [str(arguments.torch), "-c", TORCH, given]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _ask(process: subprocess.Popen[str]) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())


if __name__ == "__main__":
    main()
