"""A study of three recipes that share a stage, on the tiny corpus: seconds of training each."""

from pathlib import Path

import pytest

STUDY = """
from pathways_lite.recipe import *
from pathways_lite.studies import Study

MODEL = Model(d_model=32, n_layers=2, n_heads=2, head_dim=16, d_ff=64, vocab_size=257, dtype="float32")
DATA = Data(corpus={corpus!r}, seq_len=32)


def stage(name, start, rate, steps):
    return Stage(
        name=name, start=start, model=MODEL, data=DATA, optimizer=AdamW(learning_rate=rate), batch_size=2,
        budget=Steps(n=steps), evaluation=Evaluation(every=3, tokens=500), saving=Saving(every=2), log_every=1,
    )


def recipe(name, rate):
    trunk = stage("trunk", Scratch(), 3e-3, 6)
    return Recipe(name=name, stages=(trunk, stage("tail", Continue(), rate, 4)))


def study():
    return Study(
        name="rates",
        question="Which rate is <best>?",
        arms={{"slow": (recipe("slow", 1e-3),), "fast": (recipe("fast", 1e-2),)}},
        baseline="slow",
    )
"""


@pytest.fixture(scope="session")
def study_file(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms of one recipe each: a common trunk, and two tails."""
    path = tmp_path_factory.mktemp("study") / "rates.py"
    path.write_text(STUDY.format(corpus=str(corpus)))
    return path
