"""A run directory as training leaves it: two stages, two domains, one spike."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from pathways_lite.ledger import Ledger, Seconds
from pathways_lite.run_directory import StageDirectory
from pathways_lite.tracking.log import RunLog

FLOPS_PER_TOKEN = {"base": 40_000_000, "tail": 60_000_000}
TOKENS_PER_STEP = 4096
LOG_EVERY = 10


def write_stage(run: Path, name: str, *, steps: int, first_loss: float, finished: bool) -> None:
    """Write the log, the ledger and, if finished, the summary of a stage."""
    rng = np.random.default_rng(len(name))
    directory = run / name
    with RunLog(directory) as log:
        seconds = 8.0
        log.timing("compile", 0, seconds=seconds, duration=8.0)
        for step in range(LOG_EVERY, steps + 1, LOG_EVERY):
            counts = {"tokens": step * TOKENS_PER_STEP, "flops": step * TOKENS_PER_STEP * FLOPS_PER_TOKEN[name]}
            loss = 2.9 + (first_loss - 2.9) * math.exp(-step / 90) + 0.05 * rng.normal()
            rate = 3e-3 * min(1.0, step / 40) * (0.55 + 0.45 * math.cos(math.pi * step / 600))
            values = {"loss": np.float32(loss), "grad_norm": np.float32(0.8), "learning_rate": np.float32(rate)}
            log.row("train", step, **counts, **values)
            seconds += 2.9 + 0.1 * rng.random()
            speed = 13_000 + 300 * rng.normal()
            flops = speed * FLOPS_PER_TOKEN[name]
            log.timing(
                "train", step, seconds=seconds, tokens_per_second=speed, flops_per_second=flops, share_of_peak=0.6
            )
            if step % 100 == 0:
                bits = {"code": loss * 0.47, "prose": loss * 0.66}
                log.row(
                    "eval", step, **counts, domains={n: {"loss": loss, "bits_per_byte": b} for n, b in bits.items()}
                )
                seconds += 4
                log.timing("evaluate", step, seconds=seconds, duration=4.0)
                log.timing("save", step, seconds=seconds + 0.5, duration=0.5)
        log.row("event", steps // 2 + 1, event="skip", loss=math.nan, reason="the loss was not finite <b>")
        log.timing("event", steps // 2, seconds=20.0, event="resume")
    tokens = steps * TOKENS_PER_STEP
    ledger = Ledger(
        steps=steps, tokens=tokens, flops=tokens * FLOPS_PER_TOKEN[name], active_parameter_tokens=tokens * 5_800_000,
        seconds=Seconds(train=steps / 3, compile=8.0, save=2.5, evaluate=24.0, other=1.5),
    )  # fmt: skip
    before = run / "base" / "ledger.json"
    total = ledger if name == "base" else Ledger.from_json(json.loads(before.read_text())["total"]) + ledger
    StageDirectory(directory).write_ledger({"stage": ledger.to_json(), "total": total.to_json()})
    if finished:
        write_summary(directory, steps)


def write_summary(directory: Path, steps: int) -> None:
    """Write the summary of a finished stage."""

    def result(nll: float, tokens: int, size: int) -> dict[str, float]:
        loss = nll / tokens
        sums = {"nll": nll, "tokens": tokens, "bytes": size, "documents": 120}
        return sums | {"loss": loss, "perplexity": math.exp(loss), "bits_per_byte": nll / (math.log(2) * size)}

    summary = {
        "step": steps,
        "model": {"parameters": 5_812_224, "non_embedding_parameters": 3_715_072, "flops_per_token": 40_000_000},
        "domains": {"code": result(290_000.0, 100_000, 330_000), "prose": result(350_000.0, 100_000, 210_000)},
        "compressors": {
            "code": {"xz -9": 1.631, "zstd -19": 1.702, "gzip -9": 2.006},
            "prose": {"xz -9": 2.205, "zstd -19": 2.281, "gzip -9": 2.634},
        },
        "samples": [
            {
                "prompt": "def add(a, b):",
                "text": "\n    return a < b & '<script>'\n",
                "temperature": 0.8,
                "top_p": 0.95,
            },
            {"prompt": "The", "text": " sequence of the elements is\nreturned as a list.", "temperature": 0.0},
        ],
        "peak_flops": 210e9,
        "environment": {"python": "3.12.3", "jax": "0.12.0", "device": "cpu", "cores": 2},
        "command": "pathways-lite train configs/demo.py run=<new>",
    }
    StageDirectory(directory).write_summary(summary)


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run. Tests must not modify it."""
    run = tmp_path_factory.mktemp("runs") / "demo"
    run.mkdir()
    stages = [
        {"name": "base", "model": {"d_model": 256, "n_layers": 6}, "data": {"seq_len": 256}, "batch_size": 16},
        {"name": "tail", "model": {"d_model": 256, "n_layers": 6}, "data": {"seq_len": 256}, "batch_size": 16},
    ]
    (run / "recipe.json").write_text(json.dumps({"name": "demo", "seed": 0, "stages": stages}))
    write_stage(run, "base", steps=600, first_loss=9.0, finished=True)
    write_stage(run, "tail", steps=300, first_loss=3.4, finished=True)
    return run
