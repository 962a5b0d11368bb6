"""A trained model in one object: parameters, tokenizer, recipe and cost, and what people do with them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from pathways_lite import models
from pathways_lite.console import print_line
from pathways_lite.data.chat_template import Messages
from pathways_lite.data.held_out_text import HeldOutText
from pathways_lite.data.tokenizers import Tokenizer
from pathways_lite.errors import UserError
from pathways_lite.evaluation.bits import HeldOutLoss
from pathways_lite.evaluation.context import default_tokens
from pathways_lite.evaluation.continuations import Continuation, ContinuationScorer, encode_pair
from pathways_lite.evaluation.generation import stops_of
from pathways_lite.evaluation.texts import document_logits, encode_documents
from pathways_lite.evaluation.token_scores import TokenScores
from pathways_lite.ledger import Ledger
from pathways_lite.paths import local_path
from pathways_lite.recipe import Mode, Model, Recipe, Stage
from pathways_lite.sampling import Sampling
from pathways_lite.training.load import TrainedModel, load_model
from pathways_lite.training.writers import asker_of, writer_of

__all__ = ["Trained", "from_hf", "load"]


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
      checkpoint: what it was read from; the functions of docs/library.md take it.
    """

    checkpoint: TrainedModel
    _params: Any = field(default=None, repr=False, compare=False)  # instead of the checkpoint's

    @property
    def stage(self) -> Stage:
        """The stage that trained it."""
        return self.checkpoint.stage

    @property
    def model(self) -> Model:
        """The architecture and its sizes."""
        return self.stage.model

    @property
    def recipe(self) -> Recipe:
        """The whole recipe, resolved."""
        return self.checkpoint.spec.recipe

    @property
    def ledger(self) -> Ledger:
        """The cost of everything that led to it."""
        return self.checkpoint.cost

    @functools.cached_property
    def params(self) -> Any:
        """The parameters that are evaluated, nested dictionaries of arrays on all devices; read when first used."""
        return self.checkpoint.params() if self._params is None else self._params

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises UserError where the checkpoint has none and its corpus is not there."""
        return self.checkpoint.tokenizer()

    def with_params(self, params: Any) -> Trained:
        """Return the model with other parameters of the same shapes, e.g. edited or averaged ones.

        Raises UserError, with the first array that differs, for other shapes.
        """
        given, expected = _shapes(params), _shapes(models.abstract_params(self.model))
        for name in (*expected, *given):
            if given.get(name) != expected.get(name):
                was, wanted = (list(shapes[name]) if name in shapes else "none" for shapes in (given, expected))
                raise UserError(f"params{name} has the shape {was}, and the model's has {wanted}")
        return Trained(self.checkpoint, params)

    # ---- text ----

    def generate(
        self,
        prompt: str | Sequence[str] | Sequence[Messages] = "",
        *,
        max_tokens: int | None = None,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        stop: Sequence[str] = (),
        samples: int = 1,
        seed: int = 0,
        mode: Mode | None = None,
        chat: bool = False,
        rows: int = 16,
    ) -> Any:
        """Continue a text, or several, as `pathways-lite generate` does.

        Returns what follows, without the prompt: a str for one text, a list of them for several texts or samples.

        Args:
          prompt: a text, or a list of them; with `chat` also lists of messages.
          max_tokens: None: what fits into the trained length, at most 256.
          temperature, top_k, top_p, min_p: of the draws; temperature 0 takes the likeliest token.
          stop: strings of which each ends a text.
          samples: of each prompt, those of the first prompt first.
          seed: the same one gives the same texts, whatever `rows`, the number of texts written at a time.
          mode: of a UL2R model. chat: ask by the model's chat template; a text is the user's message.
        """
        single = isinstance(prompt, str)
        texts: list[Any] = [prompt] if isinstance(prompt, str) else list(prompt)
        if chat:
            texts = [[{"role": "user", "content": text}] if isinstance(text, str) else text for text in texts]
        asker = asker_of(self.checkpoint, self.tokenizer, mode=mode, chat=chat)
        questions = [asker.ask(text) for text in texts]
        if not questions:
            return []
        if max_tokens is None:
            lengths = [len(question.prompt.tokens) for question in questions]
            max_tokens = default_tokens(lengths, self.stage.data.seq_len)
        writer = writer_of(self.checkpoint, self.tokenizer, asker, seed, params=self.params, rows=rows)
        drawn = writer.continuations(
            questions,
            Sampling(temperature, top_k, top_p, min_p),
            max_tokens=max_tokens,
            samples=samples,
            stops=stops_of(self.tokenizer)(stop),
        )
        ordered = sorted(drawn, key=lambda result: (result.prompt, result.number))
        written = [result.text for result in ordered]
        return written[0] if single and samples == 1 else written

    # ---- numbers ----

    def logits(self, text: str | np.ndarray | Sequence[str] | Sequence[np.ndarray]) -> Any:
        """Return the logits of the token after each token of a text, float32 [n, V]; of several texts a list.

        A text is a document: it begins with what opens one, so that row 0 predicts its first token. Ids, int [n], are
        read as they are.
        """
        single = isinstance(text, str) or getattr(text, "ndim", 0) == 1
        documents = [text] if single else list(text)
        frame = self.checkpoint.frame() if any(isinstance(document, str) for document in documents) else None
        ids = [
            encode_documents(self.tokenizer, [document], frame=frame)[0] if isinstance(document, str) else document
            for document in documents
        ]
        results = document_logits(self.model, self.params, [np.asarray(document, np.int32) for document in ids])
        return results[0] if single else results

    def score(self, pairs: Sequence[tuple[str, str]], *, rows: int = 16) -> list[TokenScores]:
        """Score (context, continuation) pairs: nats of each token of the continuation, and whether it is the likeliest.

        `-nll.sum()` is the log probability of a continuation. A token that reaches across the border belongs to the
        continuation. An empty context is the beginning of a document. `rows`: continuations scored at a time.
        """
        asker = asker_of(self.checkpoint, self.tokenizer)
        cut = [encode_pair(self.tokenizer.encode, context, following) for context, following in pairs]
        continuations = [Continuation(asker.prompt_of(context), following) for context, following in cut]
        return self._scorer(rows).score(continuations)

    def _scorer(self, rows: int) -> ContinuationScorer:
        weights = jax.jit(models.unstack, static_argnums=0)(self.model, self.params)
        return ContinuationScorer(self.model, weights, rows=rows, layout=self.checkpoint.components.layout)

    def evaluate(
        self,
        corpus: str | Path | None = None,
        *,
        texts: Mapping[str, str] | None = None,
        tokens: int | None = None,
        overlap: int | None = None,
        seq_len: int | None = None,
    ) -> dict[str, HeldOutLoss]:
        """Measure loss and bits per byte of held-out documents, by domain, as `pathways-lite evaluate` does.

        Args:
          corpus: a token store of the same tokenizer; None: the text that the stage was evaluated on.
          texts: instead of a corpus, by names.
          tokens: held-out tokens per domain; overlap, seq_len: of the windows of long documents. None: the stage's.
        """
        documents = None
        if texts is not None:
            documents = HeldOutText.of_texts(dict(texts), self.tokenizer, self.checkpoint.frame())
            tokens = tokens or documents.tokens
        place = None if corpus is None else str(corpus)
        evaluator = self.checkpoint.evaluator(place, tokens, overlap, seq_len=seq_len, documents=documents)
        return evaluator.evaluate(self.params)

    # ---- files ----

    def save(self, out: str | Path) -> Trained:
        """Write the parameters as a new checkpoint below the directory `out`, and return the model there.

        It is the beginning of a stage `saved`, of which this model's stage is the parent: `load`, `Restore(path=out)`
        and every command take it. The optimizer's state is not in it. Raises UserError where `out` has a checkpoint.
        """
        from pathways_lite.conversion.save_params import save_params

        return load(save_params(self.checkpoint, self.params, local_path(out)))

    def to_hf(
        self, out: str | Path, *, dtype: Literal["float32", "bfloat16"] = "float32", shard_bytes: int = 5 * 10**9
    ) -> Path:
        """Write a model that transformers loads into the new directory `out`, with its tokenizer; return the directory.

        Raises UserError where no class of transformers computes the model, and for parameters that are not saved yet.
        """
        from pathways_lite.conversion.hf_export import export_hf

        if self._params is not None:
            raise UserError("these parameters are in no checkpoint yet: save(OUT).to_hf(...) writes one first")
        return export_hf(self.checkpoint, local_path(out), dtype=dtype, shard_bytes=shard_bytes, report=print_line)


def load(path: str | Path, *, average: bool = False) -> Trained:
    """Load the newest valid checkpoint at or below a run, stage or checkpoint directory.

    `average`: with the moving average of its parameters in their place. Raises UserError where there is none.
    """
    return Trained(load_model(path, average=average))


def from_hf(
    source: str | Path,
    out: str | Path,
    *,
    tokens: int | None = None,
    tokenizer: str | Path | None = None,
    report: Callable[[str], None] = print_line,
) -> Trained:
    """Import the model in a Hugging Face directory as a checkpoint below `out`, and load it.

    Args:
      tokens: that it was trained on, for its cost; None: the cost is unknown.
      tokenizer: where the directory has none.
      report: is told the model and its arrays.

    Raises UserError for a model that the decoder cannot compute, and where `out` has a checkpoint.
    """
    from pathways_lite.conversion.hf_import import import_hf
    from pathways_lite.output_lock import lock_directory

    place = None if tokenizer is None else local_path(tokenizer)
    with lock_directory(local_path(out)):
        return load(import_hf(local_path(source), local_path(out), tokens, report, tokenizer=place))


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
