"""Compute a GGUF file's logits by transformers' own reading of it, to compare ours with.

    python tools/gguf_logits.py MODEL.gguf IDS.npy OUT.npz     # needs torch, transformers, gguf and accelerate

IDS.npy holds token ids [T]; OUT.npz gets `logits` [T, V] in float32, and `greedy`, a continuation of the first 16 ids.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

PROMPT, GREEDY = 16, 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a GGUF file")
    parser.add_argument("ids", type=Path, help="token ids, as numpy.save writes them")
    parser.add_argument("out", type=Path, help="file to write")
    arguments = parser.parse_args()
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        arguments.model.parent, gguf_file=arguments.model.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    ids = torch.from_numpy(np.load(arguments.ids).astype(np.int64))[None]
    with torch.no_grad():
        logits = model(ids).logits[0].numpy()
        continued = model.generate(
            ids[:, :PROMPT], do_sample=False, min_new_tokens=GREEDY, max_new_tokens=GREEDY, repetition_penalty=1.0
        )
    np.savez(arguments.out, logits=logits, greedy=continued[0, PROMPT:].numpy())


if __name__ == "__main__":
    main()
