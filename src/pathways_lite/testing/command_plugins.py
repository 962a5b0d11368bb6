"""Contracts of plugins that commands name: trackers, sources, laws, families of problems."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pathways_lite.data.documents import Document
from pathways_lite.data.sources import SourcePlugin
from pathways_lite.scaling.fit import fit_law
from pathways_lite.scaling.law import Law
from pathways_lite.scaling.solver import predict
from pathways_lite.tasks.draws import Draws
from pathways_lite.tasks.family import Family, Request
from pathways_lite.tracking.trackers import Tracker

# ---- trackers ----


class TrackerContract:
    """A tracker takes every row of a run, twice after a resume, and raises nothing."""

    def open(self, stage_dir: Path, *, run: str, step: int) -> Tracker:
        """Return the tracker, as its entry point does."""
        raise NotImplementedError

    def test_it_takes_rows_of_every_kind_and_those_of_a_resumed_run_again(self, tmp_path: Path) -> None:
        rows: list[dict[str, Any]] = [
            {"kind": "train", "step": 1, "loss": np.float32(2.5), "ok": True, "weight_histogram": [0.5, 0.5]},
            {"kind": "train", "step": 2, "loss": math.nan, "grad_norm": math.inf, "share_of_peak": None},
            {"kind": "eval", "step": 2, "domains": {"wiki/é": {"loss": 2.0, "bits_per_byte": 1.0}}},
            {"kind": "statistics", "step": 2, "residual_rms": [1.0, 2.0]},
            {"kind": "event", "step": 2, "event": "rewind", "reason": "<script>"},
        ]
        for step in (0, 1):
            tracker = self.open(tmp_path / "base", run="contract", step=step)
            for row in rows:
                tracker.row(row)
            tracker.close()


# ---- sources ----


class SourceContract:
    """A source gives the same documents in the same order every time, also in another process."""

    plugin: ClassVar[SourcePlugin]

    def test_it_gives_the_same_documents_again_and_pickled(self) -> None:
        documents = [item for chunk in self.plugin.chunks() for item in chunk.read()]
        copy = pickle.loads(pickle.dumps(self.plugin))
        assert documents == [item for chunk in copy.chunks() for item in pickle.loads(pickle.dumps(chunk)).read()]
        ids = [document.id for document in documents if isinstance(document, Document)]
        assert ids, "it has no document"
        assert len(set(ids)) == len(ids), "two documents have one id"
        assert all(chunk.size > 0 for chunk in self.plugin.chunks())

    def test_a_named_domain_has_all_documents(self) -> None:
        fields = self.plugin.fields.__class__(domain="mine")
        source = type(self.plugin)(self.plugin.address, fields)
        domains = {item.domain for chunk in source.chunks() for item in chunk.read() if isinstance(item, Document)}
        assert domains == {"mine"}


# ---- laws ----


class LawContract:
    """A law fits what it predicts.

    Attributes:
      values: of its parameters. ranges: of its inputs, from which rows are drawn log-uniformly.
    """

    plugin: ClassVar[Law]
    values: ClassVar[dict[str, float]]
    ranges: ClassVar[dict[str, tuple[float, float]]]

    def test_its_own_predictions_are_fitted_exactly(self) -> None:
        rng = np.random.default_rng(0)
        table = {name: _draw(rng, self.ranges[name]) for name in self.plugin.inputs}
        target = predict(self.plugin, self.values, table)
        assert np.isfinite(target).all()
        fit = fit_law(self.plugin, {**table, self.plugin.target: target})
        np.testing.assert_allclose(fit.predicted(), target, rtol=1e-3)


def _draw(rng: np.random.Generator, bounds: tuple[float, float]) -> np.ndarray:
    low, high = map(math.log, bounds)
    return np.exp(rng.uniform(low, high, 40))


# ---- families of problems ----


class FamilyContract:
    """A family draws the same problems from the same seed, whose own solutions are right."""

    plugin: ClassVar[Family]
    request: ClassVar[Request] = Request(documents=100)

    def test_solutions_are_right_and_draws_are_repeatable(self) -> None:
        source, again = (self.plugin.open(self.request) for _ in range(2))
        for number in range(20):
            example, other = (each.example(Draws("contract", 0, number)) for each in (source, again))
            assert (example.prompt, example.solution) == (other.prompt, other.solution)
            assert example.verifier.judge(example.solution).correct
            assert not example.verifier.judge("").correct
            assert example.prompt in source.text(example, Draws("text", 0, number))
