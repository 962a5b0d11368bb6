"""The vocabulary of experiments: a Recipe is a chain of Stages. Data only; nothing here runs anything."""

from pathways_lite.recipe.base import Amount, Budget, Flops, Fraction, Frozen, Steps, Tokens
from pathways_lite.recipe.checkpoint_ref import Earlier, Reference
from pathways_lite.recipe.data import (
    Data,
    DataMixture,
    DomainWeights,
    Given,
    LearnedWeights,
    MixturePhase,
    Temperature,
    UniMax,
    cooldown,
    upsampling,
)
from pathways_lite.recipe.identity import identity_differences, stage_identity
from pathways_lite.recipe.initialization import (
    Blocks,
    Compose,
    Direct,
    DropAndStack,
    Grow,
    Ingredient,
    Interpolate,
    Learned,
    Merge,
    Operator,
    Random,
    Stack,
    Zero,
    parse_blocks,
)
from pathways_lite.recipe.load import apply_overrides, load_recipe, read_recipe, write_recipe
from pathways_lite.recipe.model import Model, Remat
from pathways_lite.recipe.objective import (
    UL2,
    UL2R,
    Causal,
    CodeGen2,
    Corruption,
    Denoiser,
    Denoisers,
    FillInTheMiddle,
    Mixture,
    Mode,
    Objective,
    PrefixLM,
    SpanCorruption,
    SpecialTokens,
    Weighted,
)
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
from pathways_lite.recipe.pruning import (
    NM,
    Channels,
    FirstOrder,
    Heads,
    Magnitude,
    Movement,
    Prune,
    RandomScores,
    Regrowth,
    Unstructured,
    WholeBlocks,
)
from pathways_lite.recipe.stage import (
    Continue,
    Evaluation,
    Mesh,
    Ramp,
    Recipe,
    Restore,
    Saving,
    Scratch,
    SpikeGuard,
    Stage,
    Start,
)
from pathways_lite.recipe.weighting import (
    DoGE,
    DoReMi,
    Extremes,
    Focal,
    LearnDomainWeights,
    LinUpper,
    Quadratic,
    Reweighting,
    Top,
    Uniform,
    Upper,
)

__all__ = [
    "NM", "SGD", "UL2", "UL2R", "WSD", "Adafactor", "AdamW", "Amount", "Blocks", "Budget", "Causal", "Channels",
    "CodeGen2", "Compose", "Constant", "Continue", "Corruption", "Cosine", "Data", "DataMixture", "Denoiser",
    "Denoisers", "Direct", "DoGE", "DoReMi", "DomainWeights", "DropAndStack", "Earlier", "Evaluation", "Extremes",
    "FillInTheMiddle", "FirstOrder", "Flops", "Focal", "Fraction", "Frozen", "Given", "Grow", "Heads", "Ingredient",
    "Interpolate", "LearnDomainWeights", "Learned", "LearnedWeights", "LinUpper", "Linear", "Lion", "Magnitude",
    "Merge", "Mesh", "Mixture", "MixturePhase", "Mode", "Model", "Movement", "Muon", "Objective", "Operator",
    "Optimizer", "PaLM", "PrefixLM", "Prune", "Quadratic", "Ramp", "Random", "RandomScores", "Recipe", "Reference",
    "Regrowth", "Remat", "Restore", "Reweighting", "Saving", "Schedule", "ScheduleFree", "Scratch", "SpanCorruption",
    "SpecialTokens", "SpikeGuard", "Stack", "Stage", "Start", "Steps", "Temperature", "Tokens", "Top", "UniMax",
    "Uniform", "Unstructured", "Upper", "Weighted", "WholeBlocks", "Zero", "apply_overrides", "cooldown",
    "identity_differences", "load_recipe", "parse_blocks", "read_recipe", "stage_identity", "upsampling",
    "write_recipe",
]  # fmt: skip
