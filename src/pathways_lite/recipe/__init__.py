"""The vocabulary of experiments: a Recipe is a chain of Stages. Data only; nothing here runs anything."""

from pathways_lite.recipe.base import Amount, Budget, Flops, Fraction, Frozen, Steps, Tokens
from pathways_lite.recipe.data import Data
from pathways_lite.recipe.identity import identity_differences, stage_identity
from pathways_lite.recipe.load import load_recipe, read_recipe, write_recipe
from pathways_lite.recipe.mesh import Mesh
from pathways_lite.recipe.model import Model, Remat
from pathways_lite.recipe.optimizer import (
    SGD,
    WSD,
    Adafactor,
    AdamW,
    Constant,
    Cosine,
    Linear,
    Lion,
    Muon,
    Optimizer,
    PaLM,
    Schedule,
    ScheduleFree,
)
from pathways_lite.recipe.overrides import apply_overrides
from pathways_lite.recipe.stage import (
    Causal,
    Continue,
    Evaluation,
    Grow,
    Merge,
    Ramp,
    Recipe,
    Restore,
    Saving,
    Scratch,
    SpikeGuard,
    Stage,
    Start,
)

__all__ = [
    "SGD", "WSD", "Adafactor", "AdamW", "Amount", "Budget", "Causal", "Constant", "Continue", "Cosine", "Data",
    "Evaluation", "Flops", "Fraction", "Frozen", "Grow", "Linear", "Lion", "Merge", "Mesh", "Model", "Muon",
    "Optimizer", "PaLM", "Ramp", "Recipe", "Remat", "Restore", "Saving", "Schedule", "ScheduleFree", "Scratch",
    "SpikeGuard", "Stage", "Start", "Steps", "Tokens", "apply_overrides", "identity_differences", "load_recipe",
    "read_recipe", "stage_identity", "write_recipe",
]  # fmt: skip
