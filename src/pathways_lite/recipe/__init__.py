"""The vocabulary of experiments: a Recipe is a chain of Stages. Data only; nothing here runs anything."""

from pathways_lite.recipe.base import Amount, Budget, Flops, Fraction, Frozen, Steps, Tokens
from pathways_lite.recipe.checkpoint_ref import CheckpointRef, Reference
from pathways_lite.recipe.data import (
    Data,
    DataMixture,
    DomainWeights,
    GivenWeights,
    LearnedWeights,
    MixturePhase,
    Temperature,
    UniMax,
    cooldown,
    upsampling,
)
from pathways_lite.recipe.identity import identity_differences, stage_identity
from pathways_lite.recipe.initialization import (
    BlockOrder,
    Compose,
    DropAndStack,
    Grow,
    Ingredient,
    Interpolate,
    LiGO,
    MaskedGrowth,
    Merge,
    Net2Net,
    Operator,
    Stack,
    ZeroInit,
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
    MixtureOfDenoisers,
    Mode,
    Objective,
    PrefixLM,
    SpanCorruption,
    SpecialTokens,
    WeightedDenoiser,
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
    TopLosses,
    Uniform,
    Upper,
)

_FORMER_NAMES = {
    "Blocks": BlockOrder,
    "Direct": Net2Net,
    "Earlier": CheckpointRef,
    "Given": GivenWeights,
    "Learned": LiGO,
    "Mixture": MixtureOfDenoisers,
    "Random": MaskedGrowth,
    "Top": TopLosses,
    "Weighted": WeightedDenoiser,
    "Zero": ZeroInit,
}
"""Names of version 0.1, which recipe files written for it import."""

globals().update(_FORMER_NAMES)

__all__ = [
    "NM", "SGD", "UL2", "UL2R", "WSD", "Adafactor", "AdamW", "Amount", "BlockOrder", "Budget", "Causal", "Channels",
    "CheckpointRef", "CodeGen2", "Compose", "Constant", "Continue", "Corruption", "Cosine", "Data", "DataMixture",
    "Denoiser", "Denoisers", "DoGE", "DoReMi", "DomainWeights", "DropAndStack", "Evaluation", "Extremes",
    "FillInTheMiddle", "FirstOrder", "Flops", "Focal", "Fraction", "Frozen", "GivenWeights", "Grow", "Heads",
    "Ingredient", "Interpolate", "LearnDomainWeights", "LearnedWeights", "LiGO", "LinUpper", "Linear", "Lion",
    "Magnitude", "MaskedGrowth", "Merge", "Mesh", "MixtureOfDenoisers", "MixturePhase", "Mode", "Model", "Movement",
    "Muon", "Net2Net", "Objective", "Operator", "Optimizer", "PaLM", "PrefixLM", "Prune", "Quadratic", "Ramp",
    "RandomScores", "Recipe", "Reference", "Regrowth", "Remat", "Restore", "Reweighting", "Saving", "Schedule",
    "ScheduleFree", "Scratch", "SpanCorruption", "SpecialTokens", "SpikeGuard", "Stack", "Stage", "Start", "Steps",
    "Temperature", "Tokens", "TopLosses", "UniMax", "Uniform", "Unstructured", "Upper", "WeightedDenoiser",
    "WholeBlocks", "ZeroInit", "apply_overrides", "cooldown", "identity_differences", "load_recipe", "parse_blocks",
    "read_recipe", "stage_identity", "upsampling", "write_recipe", *_FORMER_NAMES,
]  # fmt: skip
