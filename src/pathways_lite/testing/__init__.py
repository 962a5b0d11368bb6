"""Contracts of plugins, as tests to inherit: what the stack relies on, for each kind of plugin.

    from pathways_lite.testing import OptimizerContract

    class TestSignSGD(OptimizerContract):
        plugin = SignSGD(momentum=0.9)

pytest collects the inherited tests. Plugins that recipes name must be installed, with their entry points.
"""

from pathways_lite.testing.command_plugins import FamilyContract, LawContract, SourceContract, TrackerContract
from pathways_lite.testing.recipe_plugins import OperatorContract, OptimizerContract, RuleContract, ScheduleContract

__all__ = [
    "FamilyContract", "LawContract", "OperatorContract", "OptimizerContract", "RuleContract", "ScheduleContract",
    "SourceContract", "TrackerContract",
]  # fmt: skip
