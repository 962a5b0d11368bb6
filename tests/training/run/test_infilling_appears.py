"""The evaluation of gaps sees it when a model has learned to fill them."""

import json
import math
import random
from pathlib import Path

import pytest

from pathways_lite.data.build import build
from pathways_lite.evaluation import infilling
from pathways_lite.recipe import AdamW, Cosine, Data, Fraction, Model, Recipe, SpanCorruption, Stage
from pathways_lite.training.final_evaluation import evaluate_infilling_tasks
from pathways_lite.training.load import load_model
from pathways_lite.training.run import train_run

LETTERS = "abcdefghijklmnop"


@pytest.mark.slow
def test_a_gap_is_filled_by_what_follows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each letter comes three times, so what is left of a run behind a gap of 3 says what stood in it.

    A gap always has one letter of which nothing stands before it: from left to right at best ln(16) / 3 nats per token.
    """
    draw = random.Random(0)
    texts = ("".join(draw.choice(LETTERS) * 3 for _ in range(14)) for _ in range(20_000))
    lines = [json.dumps({"text": text, "domain": "runs", "id": str(i)}) for i, text in enumerate(texts)]
    (tmp_path / "runs.jsonl").write_text("\n".join(lines))
    corpus = build([str(tmp_path / "runs.jsonl")], tmp_path / "corpus", tokenizer="bytes", workers=0)
    stage = Stage(
        model=Model(
            d_model=128,
            n_layers=2,
            n_heads=4,
            head_dim=32,
            d_ff=256,
            vocab_size=320,
            dtype="float32",
            scan_layers=False,
            init="normal",
        ),
        data=Data(corpus=corpus.address, seq_len=64),
        objective=SpanCorruption(mode="nlu"),
        optimizer=AdamW(learning_rate=2e-3, schedule=Cosine(warmup=Fraction(n=0.05), end=0.1)),
        batch_size=32,
        budget="3500 steps",
    )
    assert train_run(Recipe(name="runs", stages=(stage,)), tmp_path / "run") == 0
    monkeypatch.setattr(infilling, "TASKS", {"three": infilling.GapTask(1, 3)})
    trained = load_model(tmp_path / "run")
    losses = evaluate_infilling_tasks(trained.evaluator(), trained.params())["three"]
    assert losses["loss"] < 0.9 * math.log(len(LETTERS)) / 3
    assert losses["exact"] > 0.2
