"""Compute what `lm_eval --model hf` answers to some requests, for a model in a directory: likelihoods and texts.

    python tools/make_lm_eval_goldens.py DIRECTORY OUT.json

needs torch, transformers and lm-eval 0.4.13. `tests/test_harness.py` compares the answers: of its tiny model, whose
weights are drawn by name, they are stored in tests/evaluation/lm_eval_golden.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

PAIRS = [
    ("The capital of France is", " Paris"),
    ("The capital of France is ", "Paris"),  # the space moves to the continuation
    ("Q: 3+4=\nA:", " 7\n"),
    ("Q: 3+4=\nA:", ")"),  # what greedy decoding writes
    ("", "Once upon a time"),
    ("é 日本 ", "ñ"),
    ("a" * 150, " b c"),  # longer than the context of 128 tokens
]
TEXTS = ["One line.", "word " * 70, "é" * 90]  # the later ones in several windows
PROMPTS = [
    ("Q: 3+4=\nA:", {"until": ["\n\n"], "max_gen_toks": 12, "do_sample": False}),
    ("The capital", {"until": ["e", "zz"], "max_gen_toks": 20, "do_sample": False}),
]


def answers(directory: Path) -> dict[str, Any]:
    """Return [nats, greedy] of every pair, nats of every text, and the continuation of every prompt."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=str(directory), device="cpu", dtype="float32", batch_size=1, max_length=128)

    def instances(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
        return [Instance(request_type=kind, doc={}, arguments=each, idx=i) for i, each in enumerate(arguments)]

    pairs = model.loglikelihood(instances("loglikelihood", PAIRS))
    texts = model.loglikelihood_rolling(instances("loglikelihood_rolling", [(text,) for text in TEXTS]))
    written = model.generate_until(instances("generate_until", PROMPTS))
    return {"pairs": [[nats, bool(greedy)] for nats, greedy in pairs], "texts": texts, "written": written}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="a model in the form of transformers")
    parser.add_argument("out", type=Path, help="file for the answers")
    arguments = parser.parse_args()
    arguments.out.write_text(json.dumps(answers(arguments.directory), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
