"""Held-out samples with the model's own losses per token, for the page of a stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pathways_lite.data.token_texts import token_texts
from pathways_lite.data.tokenizers import Tokenizer
from pathways_lite.evaluation.bits import ScoredDocument
from pathways_lite.evaluation.held_out import StageEvaluator
from pathways_lite.tracking.token_page import ScoredText, TokenLoss, write_token_page

PAGE_TOKENS = 12_000  # of a page, about 1.5 MB
_MAX_DOMAINS = 24
_MIN_TOKENS = 64  # of a sample that is not a whole document


def score_samples(evaluator: StageEvaluator, params: Any, *, tokens: int = PAGE_TOKENS) -> list[ScoredText]:
    """Return held-out documents with the nats of each of their tokens, `tokens` tokens in all at most.

    They are the first documents of each domain's evaluation, or their beginnings, in equal parts of the first domains.
    All processes must call this.
    """
    domains = list(evaluator.documents)[:_MAX_DOMAINS]
    chosen: list[tuple[str, str, ScoredDocument]] = []
    for domain in domains:
        left = tokens // len(domains)
        documents = evaluator.store.held_out(domain, evaluator.stage.evaluation.tokens)
        for document, scored in zip(documents, evaluator.documents[domain], strict=True):
            if left < min(_MIN_TOKENS, scored.predictions):
                break
            if scored.predictions > left:
                scored = ScoredDocument(scored.tokens[: left + 1], 0, is_whole=False)
            chosen.append((domain, document.id, scored))
            left -= scored.predictions
    losses = evaluator.scorer.token_losses(params, [scored for _, _, scored in chosen])
    tokenizer = evaluator.store.tokenizer()
    return [
        ScoredText(domain, name, _token_losses(tokenizer, document, nats.tolist()))
        for (domain, name, document), nats in zip(chosen, losses, strict=True)
    ]


def _token_losses(tokenizer: Tokenizer, document: ScoredDocument, nats: list[float]) -> list[TokenLoss]:
    texts = token_texts(tokenizer, document.tokens[1:].tolist())
    if document.is_whole:
        texts.append("⟨eod⟩" if document.end is None else "⟨eos⟩")
    return [TokenLoss(text, loss) for text, loss in zip(texts, nats, strict=True)]


def write_samples_page(path: Path, run: str, stage: str, step: int, texts: list[ScoredText]) -> Path:
    """Write the page of a stage's held-out samples, and return its path."""
    lead = f"Held-out text as the model of stage {stage} sees it at step {step:,}. It was never trained on."
    return write_token_page(path, f"{run}: losses of tokens", lead, texts)
