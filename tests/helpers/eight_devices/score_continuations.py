"""Score continuations by a tiny model on one CPU device and on meshes of up to eight.

    python -m helpers.eight_devices.score_continuations CASE...      # names of CASES

The output is one JSON object: by case, the largest difference of a token's nats.
"""

import json
import sys

import jax
import numpy as np

from helpers.eight_devices.sample import CASES, MODEL, lay_out
from pathways_lite import models
from pathways_lite.evaluation.continuations import Continuation, ContinuationScorer
from pathways_lite.objectives.prompts import Prompt
from pathways_lite.parallel.sharding import Layout
from pathways_lite.sampling import Sampler

CONTINUATIONS = [
    *(Continuation(Prompt(list(range(30)), 0, 63), [n, 5, 2 * n]) for n in range(10)),
    Continuation(Prompt([1, 2, 3], 3, 63), list(range(20))),
]


def score(params: models.Params, layout: Layout, gather: bool = True) -> np.ndarray:
    sampler = Sampler.of_params(MODEL, params, (63,), rows=8, layout=layout, gather=gather)
    scorer = ContinuationScorer(MODEL, sampler.weights, rows=4, layout=sampler.layout)
    return np.concatenate([scores.nll for scores in scorer.score(CONTINUATIONS)])


def main() -> None:
    params = jax.jit(lambda: models.init(MODEL, jax.random.key(1)))()
    expected = score(params, Layout())
    result = {}
    for name in sys.argv[1:] or CASES:
        placed, layout = lay_out(params, name)
        result[name] = float(np.abs(score(placed, layout, CASES[name][3]) - expected).max())
    print(json.dumps(result))


if __name__ == "__main__":
    main()
