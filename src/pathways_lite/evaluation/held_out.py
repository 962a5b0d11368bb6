"""Evaluate a stage's model on the held-out documents of its corpus, per domain and per denoiser."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from pathways_lite import models
from pathways_lite.batch import Batch
from pathways_lite.data.held_out_text import HeldOutSource
from pathways_lite.evaluation.bits import Evaluator, HeldOutLoss, ScoredDocument
from pathways_lite.evaluation.denoisers import denoiser_losses
from pathways_lite.parallel.sharding import FULL_BATCH, Layout
from pathways_lite.recipe import Stage


@dataclass(frozen=True)
class StageEvaluator:
    """Scores parameters of the stage's model.

    Attributes:
      stage: its model, objective, data and evaluation budget.
      store: the corpus whose held-out documents are read, or these documents alone.
      layout: how batches and parameters are sharded.
      rows: sequences scored at once, rounded up to what the layout divides.
    """

    stage: Stage
    store: HeldOutSource
    layout: Layout
    rows: int

    @functools.cached_property
    def scorer(self) -> Evaluator:
        """Scores documents, given as token arrays, in batches."""
        config, layout = self.stage.model, self.layout
        shards = layout.size("batch")

        def nll(params: Any, batch: Batch) -> jax.Array:
            return layout.constrain(models.token_losses(config, params, batch, layout=layout).nll, None, None)

        return Evaluator(
            nll,
            rows=-(-self.rows // shards) * shards,
            seq_len=self.stage.data.seq_len,
            overlap=self.stage.evaluation.overlap or 0,
            place=functools.partial(layout.place_batch, share=FULL_BATCH),
        )

    @functools.cached_property
    def documents(self) -> dict[str, list[ScoredDocument]]:
        """Per domain, the held-out documents that are scored; domains without any are left out."""
        budget = self.stage.evaluation.tokens
        documents = {
            domain: [
                ScoredDocument(document.tokens, document.text_bytes, document.is_whole, self.store.frame.closes)
                for document in self.store.held_out(domain, budget)
            ]
            for domain in self.store.domains
        }
        return {domain: held_out for domain, held_out in documents.items() if held_out}

    def evaluate(
        self, params: Any, *, between_batches: Callable[[int, int], None] | None = None
    ) -> dict[str, HeldOutLoss]:
        """Compute the held-out loss of every domain. `between_batches(done, total)` is called after each batch."""
        return {
            domain: replace(self.scorer(params, documents, between_batches=between_batches), lossy=self.store.is_lossy)
            for domain, documents in self.documents.items()
        }

    def evaluate_documents(self, params: Any) -> dict[str, list[HeldOutLoss]]:
        """Compute the held-out loss of every document of every domain; their sums are what `evaluate` returns."""
        losses: dict[str, list[HeldOutLoss]] = {}
        for domain, documents in self.documents.items():
            scored = self.scorer.token_losses(params, documents)
            losses[domain] = [
                HeldOutLoss(
                    float(np.sum(nll, dtype=np.float64)),
                    document.predictions,
                    document.text_bytes,
                    1,
                    self.store.is_lossy,
                    self.stage.evaluation.overlap or 0,
                )
                for nll, document in zip(scored, documents, strict=True)
            ]
        return losses

    @property
    def documents_in_stream(self) -> list[np.ndarray]:
        """The documents of all domains as they stand in the corpus's streams."""
        return [self._in_stream(document) for documents in self.documents.values() for document in documents]

    def _in_stream(self, document: ScoredDocument) -> np.ndarray:
        return self.store.frame.to_stream(document.tokens) if document.is_whole else document.tokens

    def evaluate_denoisers(
        self, params: Any, *, between_batches: Callable[[int, int], None] | None = None
    ) -> dict[str, dict[str, float]]:
        """Compute the held-out loss of every denoiser of the objective.

        The text is that of all domains, in equal parts, and as much as is evaluated of one domain.
        """
        documents = []
        for held_out in self.documents.values():
            left = self.stage.evaluation.tokens // len(self.documents)
            for document in held_out:
                documents.append(self._in_stream(document)[:left])
                left -= len(documents[-1])
        return denoiser_losses(
            self.scorer,
            params,
            self.stage.objective,
            documents,
            frame=self.store.frame,
            boundaries=self.stage.data.boundaries,
            seed=self.stage.data.shuffle_seed,
            between_batches=between_batches,
        )
