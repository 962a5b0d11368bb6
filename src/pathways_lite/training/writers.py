"""Ask a trained model for text, as it was trained. JAX is imported by the functions: commands import them early."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime

    from pathways_lite.data.tokenizers import Tokenizer
    from pathways_lite.evaluation.generation import Asker, Writer
    from pathways_lite.recipe import Mode
    from pathways_lite.training.load import TrainedModel


def asker_of(
    model: TrainedModel, tokenizer: Tokenizer, *, corpus: str | None = None, mode: Mode | None = None,
    chat: bool = False, today: datetime | None = None,
) -> Asker:  # fmt: skip
    """Return what asks a model as it was trained; its parameters are not read for that.

    With `chat` it asks by messages, `today` or now; UserError where the model has no chat template.
    """
    from pathways_lite.data.chat_template import ChatTemplate
    from pathways_lite.evaluation.generation import Asker
    from pathways_lite.objectives.prompts import PromptFormat

    prompt_format = PromptFormat.from_objective(model.stage.objective, model.frame(corpus))
    opener, _ = model.prompt_tokens(tokenizer)
    template = ChatTemplate(tokenizer, str(model.path), today) if chat else None
    return Asker(tokenizer, prompt_format, mode, None, opener, template)


def writer_of(
    model: TrainedModel, tokenizer: Tokenizer, asker: Asker, seed: int, *, params: Any = None, **options: Any
) -> Writer:
    """Return a writer of the texts that `asker` asks for.

    `params`: instead of the model's own, which are read for None. `options`: those of `Sampler`.
    """
    import jax

    from pathways_lite.evaluation.generation import Writer

    _, ends = model.prompt_tokens(tokenizer)
    return Writer(
        model.stage.model,
        model.params() if params is None else params,
        tokenizer,
        asker.prompt_format,
        asker.mode,
        asker.frame,
        asker.opener,
        ends,
        asker.chat,
        key=jax.random.key(seed),
        layout=model.components.layout,
        **options,
    )
