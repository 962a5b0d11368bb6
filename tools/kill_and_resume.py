#!/usr/bin/env python3
"""Train a recipe twice, once undisturbed and once killed and resumed, and compare the results bit for bit.

    python tools/kill_and_resume.py configs/demo.py stages.base.budget="500 steps" --out runs/resumed

Runs OUT/undisturbed to its end. OUT/killed gets SIGKILL after a third of the steps and SIGTERM after two thirds
(`--signals`), each soon after a checkpoint, and is resumed by the same command. Nothing is shared between the
processes: compiled programs are not kept, so that each process compiles, and chooses algorithms, by itself, as after
a move to another machine. On GPUs set XLA_FLAGS=--xla_gpu_deterministic_ops=true: other programs may add in any order.

Prints one JSON line:

    equal         whether log and arrays are the same; log_equal, arrays_equal: each of them
    first_difference, largest_loss_difference
                  where the logs differ: the first step, and the largest absolute difference of losses
    killed        the signals that were sent, each with the newest checkpoint at that time and the exit status
    xla_flags     what XLA_FLAGS was
    steps, loss, tokens_per_s, seconds
                  of the undisturbed run: the loss of its last step, its median speed, all of the process

Exits with 1 unless equal and killed as asked.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from chaos import result
from pathways_lite.checkpoints import CheckpointManager
from pathways_lite.compilation_cache import VARIABLE
from pathways_lite.recipe import load_recipe

SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")
POLL_SECONDS = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="of one stage")
    parser.add_argument("overrides", nargs="*", metavar="path=value")
    parser.add_argument("--out", type=Path, required=True, help="directory of both runs; earlier ones are deleted")
    parser.add_argument("--signals", nargs="*", default=["SIGKILL", "SIGTERM"], choices=SIGNALS)
    arguments = parser.parse_args()
    line = compare(arguments.recipe, arguments.overrides, arguments.out, arguments.signals)
    print(json.dumps(line | {"command": shlex.join(["python", *sys.argv])}))
    sys.exit(not (line["equal"] and len(line["killed"]) == len(arguments.signals)))


def compare(recipe: str, overrides: list[str], out: Path, signals: list[str]) -> dict[str, Any]:
    """Return the contents of the JSON line."""
    (stage,) = (stage.name for stage in load_recipe(recipe, overrides).stages)
    undisturbed, killed = out / "undisturbed", out / "killed"
    for run in (undisturbed, killed):
        shutil.rmtree(run, ignore_errors=True)

    start = time.monotonic()
    if status := train(recipe, overrides, undisturbed).wait():
        raise SystemExit(f"the undisturbed run ended with {status}")
    seconds = time.monotonic() - start
    rows = train_rows(undisturbed / stage / "log.jsonl")
    steps = CheckpointManager(undisturbed / stage / "checkpoints").newest or 0

    sent = []
    for number, name in enumerate(signals, start=1):
        process = train(recipe, overrides, killed)
        saved = kill_after(process, killed / stage, steps * number // (len(signals) + 1), name)
        if saved is None:
            break
        sent.append({"signal": name, "after_checkpoint": saved, "status": process.returncode})
    if status := train(recipe, overrides, killed).wait():
        raise SystemExit(f"the resumed run ended with {status}")

    (log, arrays), (other_log, other_arrays) = result(undisturbed / stage), result(killed / stage)
    line: dict[str, Any] = {"check": "resumed equals undisturbed", "equal": (log, arrays) == (other_log, other_arrays)}
    line |= {"log_equal": log == other_log, "arrays_equal": arrays == other_arrays}
    line |= {} if log == other_log else difference(rows, train_rows(killed / stage / "log.jsonl"))
    line |= {"killed": sent, "xla_flags": os.environ.get("XLA_FLAGS", ""), "steps": steps, "seconds": round(seconds, 1)}
    speeds = [row["tokens_per_second"] for row in train_rows(undisturbed / stage / "timings.jsonl")]
    return line | {"loss": rows[-1]["loss"], "tokens_per_s": round(statistics.median(speeds), 1)}


def train(recipe: str, overrides: list[str], run: Path) -> subprocess.Popen[bytes]:
    """Start training; what it prints goes to stderr."""
    options = ["--track", "none", "--no-samples", "--no-page"]
    command = [sys.executable, "-m", "pathways_lite", "train", recipe, *overrides, *options, "--out", str(run)]
    return subprocess.Popen(command, stdout=sys.stderr, env=os.environ | {VARIABLE: "off"})


def kill_after(process: subprocess.Popen[bytes], stage: Path, step: int, name: str) -> int | None:
    """Send the signal once a checkpoint of `step` or later is there, and wait; return its step, None if it ended first.

    Raises SystemExit where the process failed by itself.
    """
    checkpoints = CheckpointManager(stage / "checkpoints")
    while process.poll() is None:
        saved = checkpoints.newest or 0
        if saved >= step:
            process.send_signal(getattr(signal, name))
            process.wait()
            return saved
        time.sleep(POLL_SECONDS)
    if process.returncode:
        raise SystemExit(f"the run that was to be killed ended with {process.returncode} before")
    return None


def train_rows(log: Path) -> list[dict[str, Any]]:
    rows = map(json.loads, log.read_text().splitlines())
    return [row for row in rows if row["kind"] == "train"]


def difference(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> dict[str, Any]:
    """Say where two logs differ first, and by how much losses differ at most."""
    pairs = list(zip(rows, others, strict=False))
    first = next((row["step"] for row, other in pairs if row != other), None)
    return {
        "first_difference": first,
        "largest_loss_difference": max(abs(row["loss"] - other["loss"]) for row, other in pairs),
    }


if __name__ == "__main__":
    main()
