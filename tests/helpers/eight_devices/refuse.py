"""Lower the train step of stages on six CPU devices, and print which meshes are refused and which fail.

    python -m helpers.eight_devices.refuse

The output is one JSON object: for each case, whether `require_mesh` refuses it, and whether lowering it or cutting its
batches raises UserError.
"""

import json
import os

os.environ["JAX_NUM_CPU_DEVICES"] = "6"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax

from pathways_lite.errors import UserError
from pathways_lite.recipe import AdamW, Data, Model, Recipe, Stage
from pathways_lite.training.components import Components
from pathways_lite.training.stage import StageSpec
from pathways_lite.training.stage_mesh import require_mesh

SIZES = {"d_model": 24, "n_layers": 1, "n_heads": 6, "head_dim": 4, "d_ff": 48, "vocab_size": 60, "dtype": "float32"}
CASES = {
    "fsdp": {},
    "fsdp and data": {"model": {"d_model": 16}},
    "a batch that six devices do not divide": {"batch_size": 8},
    "a microbatch that they do not divide": {"batch_size": 24, "microbatch": 4},
    "a microbatch that they divide": {"batch_size": 24, "microbatch": 12},
    "tensor": {"mesh": {"tensor": 3}},
    "heads that tensor does not divide": {"mesh": {"tensor": 3}, "model": {"n_heads": 4}},
    "a vocabulary that tensor does not divide": {"mesh": {"tensor": 3}, "model": {"vocab_size": 61}},
    "key/value heads that are shared": {"mesh": {"tensor": 6}, "model": {"n_kv_heads": 3}},
    "key/value heads that cannot be": {"mesh": {"tensor": 3}, "model": {"n_kv_heads": 2}},
    "context": {"mesh": {"context": 2}},
    "sequences that context does not divide": {"mesh": {"context": 3}},
    "a width that tensor does not divide": {"mesh": {"tensor": 3}, "model": {"d_model": 16}},
}


def outcome(fields: dict) -> tuple[bool, bool]:
    model = Model(**SIZES | fields.get("model", {}))
    others = {name: value for name, value in fields.items() if name != "model"}
    data = Data(corpus="none", seq_len=16)
    common = {"model": model, "data": data, "optimizer": AdamW(), "budget": "2 steps", "batch_size": 12}
    stage = Stage(name="base", **common | others)
    try:
        require_mesh(stage, len(jax.devices()))
        is_refused = False
    except UserError:
        is_refused = True
    components = Components(StageSpec(Recipe(name="case", stages=(stage,)), 0))
    try:
        components.layout.batch_shard.rows(stage.batch_size)
        components.lower_step(stage.batch_size)
        fails = False
    except UserError:
        fails = True
    return is_refused, fails


if __name__ == "__main__":
    print(json.dumps({name: outcome(fields) for name, fields in CASES.items()}))
