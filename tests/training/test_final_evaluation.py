"""What a stage writes at its end."""

from pathlib import Path

from pathways_lite.recipe import load_recipe
from pathways_lite.sampling.rows import advance
from pathways_lite.training.components import Components
from pathways_lite.training.final_evaluation import SAMPLE_TOKENS, sample_continuations
from pathways_lite.training.resolve import resolve_recipe
from pathways_lite.training.stage import StageSpec


def test_samples_take_one_program_to_draw(recipe_file: Path) -> None:
    """Compiling it takes nearly all of the time of small models."""
    components = Components(StageSpec(resolve_recipe(load_recipe(recipe_file)), 0))
    before = advance._cache_size()  # type: ignore[attr-defined]
    samples = sample_continuations(components.evaluator, components.fresh_state().params)
    assert advance._cache_size() - before == 1  # type: ignore[attr-defined]
    assert [sample["domain"] for sample in samples] == list(components.evaluator.documents)
    assert max(len(sample["text"]) for sample in samples) > SAMPLE_TOKENS / 4
