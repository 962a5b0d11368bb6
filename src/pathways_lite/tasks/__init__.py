"""Problems with exact verifiers: families made from a seed, files of problems, verdicts on texts. Without JAX."""

from pathways_lite.tasks.problems import Problem, problem_file, problems_digest, read_problems, verify
from pathways_lite.tasks.registry import FAMILIES, find_family
from pathways_lite.tasks.verdict import Verdict

__all__ = [
    "FAMILIES",
    "Problem",
    "Verdict",
    "find_family",
    "problem_file",
    "problems_digest",
    "read_problems",
    "verify",
]
