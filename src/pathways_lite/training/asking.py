"""How a stage's model is asked, and how well it answers."""

from __future__ import annotations

from typing import Any

from pathways_lite.evaluation.infilling import evaluate_infilling, evaluate_prefix
from pathways_lite.objectives.prompts import Asking
from pathways_lite.training.setup import Setup


def evaluate_gaps(setup: Setup, params: Any) -> dict[str, dict[str, float]]:
    """`evaluate_infilling` and, as `prefix`, `evaluate_prefix` over the held-out documents of all domains.

    A model whose objective has no infilling is asked as UL2R's would be: what it answers is what training begins with.
    Raises UserError where no id is left that could stand for a gap.
    """
    stage, store = setup.stage, setup.store
    asking = Asking.of(stage.objective, store.eod)
    ids = {"text_ids": store.vocab_size, "vocab_size": stage.model.vocab_size, "eod": store.eod}
    filling = asking if asking.infilling is not None else Asking.untrained(**ids)
    documents = [tokens for domain in setup.held_out.values() for tokens, _ in domain]
    where = documents, stage.data.seq_len
    results = evaluate_infilling(stage.model, params, filling, *where)
    prefix = evaluate_prefix(stage.model, params, asking, *where)
    return results | ({"prefix": prefix} if prefix else {})
