"""A study of two recipes that share a stage, on the tiny corpus: seconds of training each."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from helpers.run_helpers import stub_slow_parts
from pathways_lite.recipe import Recipe, read_recipe
from pathways_lite.studies.plan import resolve_study, study_store
from pathways_lite.studies.store import StudyStore
from pathways_lite.studies.study import Study, load_study
from pathways_lite.training.run import train_run

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
    """A study file with two arms of one recipe each: a shared trunk and two tails."""
    path = tmp_path_factory.mktemp("study") / "rates.py"
    path.write_text(STUDY.format(corpus=str(corpus)))
    return path


def train_silently(recipe: Recipe, path: Path) -> str:
    """Train the recipe with its slow parts stubbed and return the console's output."""
    output = StringIO()
    with pytest.MonkeyPatch.context() as patch:
        stub_slow_parts(patch)
        patch.setattr("pathways_lite.training.run.draw_report", lambda run: run.report.touch())
        for module in ("run", "loop"):
            patch.setattr(f"pathways_lite.training.{module}.machine_peak", lambda dtype: 1e10)
        assert train_run(recipe, path, console=Console(file=output)) == 0
    return output.getvalue()


@pytest.fixture(scope="session")
def train() -> Callable[[Recipe, Path], str]:
    """A function that trains a recipe in a run directory and returns the console's output."""
    return train_silently


@pytest.fixture(scope="session")
def study(study_file: Path) -> Study:
    """The study with its recipes resolved."""
    return resolve_study(load_study(study_file))


@pytest.fixture(scope="session")
def store(study: Study, tmp_path_factory: pytest.TempPathFactory) -> StudyStore:
    """The store of the study with all nodes trained, each in its own directory. Tests must not modify it."""
    store = study_store(study, tmp_path_factory.mktemp("out"))
    for identity in store.nodes:
        run = store.prepare(identity)
        train_silently(read_recipe(run.recipe_path), run.path)
    return store
