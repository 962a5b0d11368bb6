#!/usr/bin/env python3
"""Tokens per second of sampling, and memory, beside rows one by one and transformers' generate. A JSON line per case.

    python tools/bench_sample.py
    python tools/bench_sample.py --rows 1 16 128 --prompt 64 512 --torch PYTHON      PYTHON has torch and transformers

A Llama-style model with random weights (3.2 M parameters by default), one prompt for all rows, temperature 1, no end.
`shared`: all rows at once, which share the prompt's keys and values. `copied`: each row has its own. `one_by_one`: the
same texts with one row. `transformers`: a model of the same sizes, its `generate` with `do_sample`, on as many threads
as there are cores. All are timed in turn, the best of `--rounds` each counts, and compiling does not. The sampler takes
what `chosen` says. `..._mb`: the largest sum of all arrays between two chunks, without the weights.
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
from pathways_lite.models.decoding import StepWeights
from pathways_lite.objectives.prompts import Prompt
from pathways_lite.recipe import Model
from pathways_lite.sampling import Request, Sample, Sampler, Sampling
from pathways_lite.sampling.prefixes import Need, is_sharing_cheaper, places_needed

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
    parser.add_argument("--rows", type=int, nargs="+", default=[16])
    parser.add_argument("--prompt", type=int, nargs="+", default=[64], help="tokens of the prompt")
    parser.add_argument("--new", type=int, default=128, help="tokens to draw after it")
    parser.add_argument("--top-p", type=float, help="of the sampler alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torch", type=Path, help="a Python with torch and transformers")
    parser.add_argument("--alone", action="store_true", help="without rows one by one")
    arguments = parser.parse_args()
    params = jax.jit(models.init, static_argnums=0)(MODEL, jax.random.key(0))
    weights = Sampler.of_params(MODEL, params, ()).weights
    for prompt in arguments.prompt:
        for rows in arguments.rows:
            print(json.dumps(measure(arguments, weights, rows, prompt)), flush=True)


def measure(arguments: argparse.Namespace, weights: StepWeights, rows: int, prompt: int) -> dict[str, object]:
    """Time all ways to draw `rows` texts after one prompt of `prompt` tokens."""
    tokens = np.random.default_rng(0).integers(1, MODEL.vocab_size, prompt).tolist()
    request = Request(Prompt(tokens, 0, -1), Sampling(top_p=arguments.top_p), arguments.new, rows)
    one = dataclasses.replace(request, samples=1)
    sampler = Sampler(MODEL, weights, (), rows=rows)
    ways = {name: dataclasses.replace(sampler, share=share) for name, share in (("shared", True), ("copied", False))}

    def draw(name: str) -> Callable[[], float]:
        return lambda: seconds(lambda: list(ways[name].sample([request])))

    timed = {name: draw(name) for name in ways}
    if not arguments.alone:
        single = dataclasses.replace(sampler, rows=1)
        timed["one_by_one"] = lambda: rows * seconds(lambda: list(single.sample([one])))
    if arguments.torch:
        process = _torch(arguments, rows, prompt)
        timed["transformers"] = lambda: _ask(process)
    memory = {f"{name}_mb": round(megabytes(way, request), 1) for name, way in ways.items()}  # compiles
    for call in timed.values():
        call()
    each: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(arguments.rounds):
        for name, call in timed.items():
            each[name].append(call())
    speed = {f"{name}_tokens_per_s": round(rows * arguments.new / min(times)) for name, times in each.items()}
    needs = [Need(prompt, arguments.new, rows)]
    chosen = "shared" if is_sharing_cheaper(needs, rows, places_needed(needs, rows)) else "copied"
    sizes = {"rows": rows, "prompt": prompt, "new": arguments.new, "top_p": arguments.top_p}
    return {"parameters": parameter_count(MODEL), **sizes, "cores": os.cpu_count(), "chosen": chosen, **speed, **memory}


def megabytes(sampler: Sampler, request: Request) -> float:
    """Return the largest sum of all arrays that are alive while a request is answered."""
    before = sum(array.nbytes for array in jax.live_arrays())
    largest = 0

    def watch(unfinished: list[Sample]) -> None:
        nonlocal largest
        largest = max(largest, sum(array.nbytes for array in jax.live_arrays()))

    list(sampler.sample([request], watch))
    return (largest - before) / 1e6


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _torch(arguments: argparse.Namespace, rows: int, prompt: int) -> subprocess.Popen[str]:
    sizes = {
        "hidden_size": MODEL.d_model, "num_hidden_layers": MODEL.n_layers, "num_attention_heads": MODEL.n_heads,
        "num_key_value_heads": MODEL.n_kv_heads, "head_dim": MODEL.head_dim, "intermediate_size": MODEL.d_ff,
        "vocab_size": MODEL.vocab_size, "tie_word_embeddings": True,
    }  # fmt: skip
    given = json.dumps([sizes, rows, prompt, arguments.new, os.cpu_count()])
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
