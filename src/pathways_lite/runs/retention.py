"""Rules for which checkpoints of a stage to keep: `newest 3`, `every 1000`, `best 1`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pathways_lite.comparison.curves import domain_value
from pathways_lite.comparison.metric import Metric
from pathways_lite.errors import UserError
from pathways_lite.tracking.log import LOG, read_log

_RULE = re.compile(r"(newest|every|best)(?:[ =:]+([\d,_]+))?(?: steps?)?")


@dataclass(frozen=True)
class Rule:
    """One rule: the `n` newest, all whose step is a multiple of `n`, or the `n` best by held-out loss."""

    kind: str  # newest, every or best
    n: int

    def kept(self, steps: Sequence[int], stage: Path) -> set[int]:
        """Return which of the steps (ascending) of a stage's checkpoints this rule keeps.

        Raises UserError for `best` where no checkpoint was evaluated.
        """
        if self.kind == "newest":
            return set(steps[-self.n :])
        if self.kind == "every":
            return {step for step in steps if step % self.n == 0}
        losses = {step: loss for step, loss in held_out_losses(stage).items() if step in steps}
        if not losses:
            raise UserError(
                f"{stage} has no held-out loss at the step of any of its checkpoints, so none is known to be the best; "
                "use --keep newest or --keep every, or train with saving.every a multiple of evaluation.every"
            )
        return set(sorted(losses, key=lambda step: (losses[step], -step))[: self.n])


def parse_rule(text: str) -> Rule:
    """Parse `newest 3`, `every 1000 steps`, `best` (and `newest=3`, `newest:3`). Raises UserError for anything else."""
    match = _RULE.fullmatch(text.strip().lower())
    n = int(re.sub("[,_]", "", match[2] or "1")) if match else 0
    if match is None or n < 1 or (match[1] == "every" and match[2] is None):
        raise UserError(f'--keep {text!r} is not a rule; write "newest 3", "every 1000 steps" or "best 1"')
    return Rule(match[1], n)


def held_out_losses(stage: Path) -> dict[int, float]:
    """Return the held-out loss over all domains (nats per token) by step, where it is finite."""
    rows = [row for row in read_log(stage / LOG) if row["kind"] == "eval" and row.get("domains")]
    losses = {row["step"]: domain_value(row["domains"], Metric()) for row in rows}
    return {step: loss for step, loss in losses.items() if math.isfinite(loss)}
