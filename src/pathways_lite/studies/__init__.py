"""Studies: many recipes that answer one question. A node is a stage, trained once for all recipes that share it."""

from pathways_lite.comparison.metric import Metric
from pathways_lite.studies.study import Claim, Study, load_study

__all__ = ["Claim", "Metric", "Study", "load_study"]
