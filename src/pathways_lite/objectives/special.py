"""Where the ids of special tokens come from: a recipe that declares them, or those that no text is encoded to."""

from __future__ import annotations

from pathways_lite.errors import UserError
from pathways_lite.objectives.members import needs_special_tokens, sentinels_needed
from pathways_lite.recipe.objective import Causal, Objective, SpecialTokens

_NAMED = [name for name in SpecialTokens.model_fields if "sentinel" not in name]


def unused_ids(text_ids: int, vocab_size: int) -> SpecialTokens | None:
    """The special tokens of a model of `vocab_size` whose tokenizer has `text_ids`; None where too few ids are left.

    They depend on nothing else, so that all stages of a model agree about them.
    """
    sentinels = vocab_size - text_ids - len(_NAMED)
    if sentinels < 1:
        return None
    named = {name: text_ids + i for i, name in enumerate(_NAMED)}
    return SpecialTokens(**named, first_sentinel=vocab_size - 1, sentinels=sentinels)


def with_special_tokens(objective: Objective, *, seq_len: int, text_ids: int, vocab_size: int, eod: int) -> Objective:
    """`objective` with the ids of the special tokens that its examples need.

    Raises UserError, with the number that is needed, where the model has too few, or where those declared do not do.
    """
    if isinstance(objective, Causal) or not needs_special_tokens(objective):
        return objective
    sentinels = sentinels_needed(objective, seq_len)
    tokens = objective.tokens or unused_ids(text_ids, vocab_size)
    if tokens is None or (objective.tokens is None and tokens.sentinels < sentinels):
        needed = len(_NAMED) + sentinels
        raise UserError(
            f"objective {objective.kind} needs {needed} special tokens for seq_len={seq_len} ({sentinels} sentinels "
            f"and {len(_NAMED)} named ones), but of the model's {vocab_size} ids the tokenizer leaves "
            f"{max(0, vocab_size - text_ids)}; set model.vocab_size to at least {text_ids + needed} in all stages, "
            f"or declare ids that the corpus does not use: objective.tokens=SpecialTokens(...)"
        )
    if tokens.sentinels < sentinels:
        raise UserError(
            f"objective {objective.kind} needs {sentinels} sentinels for seq_len={seq_len}, but objective.tokens "
            f"declares {tokens.sentinels}"
        )
    ids = [*tokens.named.values(), tokens.first_sentinel]
    if max(ids) >= vocab_size:
        raise UserError(f"objective.tokens declares id {max(ids)}, but the model has vocab_size={vocab_size}")
    if eod in tokens.named.values() or tokens.first_sentinel - tokens.sentinels < eod <= tokens.first_sentinel:
        raise UserError(f"objective.tokens declares id {eod}, which opens every document; choose others")
    return objective.model_copy(update={"tokens": tokens})
