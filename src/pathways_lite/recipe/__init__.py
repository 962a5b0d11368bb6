"""The vocabulary of experiments: a Recipe is a chain of Stages. Data only; nothing here runs anything.

The `__all__` of each module is the only list of what it exports; this package exports all of them.
"""

# ruff: noqa: F403, F405

from types import ModuleType as _ModuleType

from pathways_lite.recipe.base import *
from pathways_lite.recipe.checkpoint_ref import *
from pathways_lite.recipe.data import *
from pathways_lite.recipe.differences import *
from pathways_lite.recipe.fields import *
from pathways_lite.recipe.identity import *
from pathways_lite.recipe.initialization import *
from pathways_lite.recipe.load import *
from pathways_lite.recipe.model import *
from pathways_lite.recipe.objective import *
from pathways_lite.recipe.optimizer import *
from pathways_lite.recipe.plugin import *
from pathways_lite.recipe.pruning import *
from pathways_lite.recipe.rope_scaling import *
from pathways_lite.recipe.stage import *
from pathways_lite.recipe.weighting import *

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
"""Class names of version 0.1, which recipe files written for it import."""

globals().update(_FORMER_NAMES)

# Without the modules themselves, which importing them binds here.
__all__ = [name for name, value in globals().items() if not name.startswith("_") and not isinstance(value, _ModuleType)]
