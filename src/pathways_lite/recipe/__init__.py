"""The vocabulary of experiments: a Recipe is a chain of Stages. Data only; nothing here runs anything."""

from pathways_lite.recipe.base import Amount, Budget, Flops, Fraction, Frozen, Steps, Tokens
from pathways_lite.recipe.data import Data
from pathways_lite.recipe.growth import (
    Blocks,
    Compose,
    Direct,
    DropAndStack,
    Grow,
    Interpolate,
    Learned,
    Operator,
    Random,
    Stack,
    Zero,
    parse_blocks,
)
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
    "SGD", "WSD", "Adafactor", "AdamW", "Amount", "Blocks", "Budget", "Causal", "Compose", "Constant", "Continue",
    "Cosine", "Data", "Direct", "DropAndStack", "Evaluation", "Flops", "Fraction", "Frozen", "Grow", "Interpolate",
    "Learned", "Linear", "Lion", "Merge", "Mesh", "Model", "Muon", "Operator", "Optimizer", "PaLM", "Ramp", "Random",
    "Recipe", "Remat", "Restore", "Saving", "Schedule", "ScheduleFree", "Scratch", "SpikeGuard", "Stack", "Stage",
    "Start", "Steps", "Tokens", "Zero", "apply_overrides", "identity_differences", "load_recipe", "parse_blocks",
    "read_recipe", "stage_identity", "write_recipe",
]  # fmt: skip
