import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pathways_lite.errors import UserError
from pathways_lite.tracking.trackers import open_trackers, scalars

TRAIN = {"kind": "train", "step": 3, "tokens": 192, "loss": 2.5, "ok": True, "note": "text"}
EVAL = {"kind": "eval", "step": 4, "domains": {"code": {"bits_per_byte": 1.5, "loss": float("nan")}}}


def test_scalars_are_the_finite_numbers_of_a_row() -> None:
    assert scalars(TRAIN) == {"train/tokens": 192.0, "train/loss": 2.5}
    assert scalars(EVAL) == {"eval/code/bits_per_byte": 1.5}


def read_events(directory: Path) -> list[tuple[str, int, float]]:
    """Scalars (name, step, value) in TensorBoard's record format: length, its checksum, event, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    scalars_read = []
    for path in sorted(directory.iterdir()):
        content, offset = path.read_bytes(), 0
        while offset < len(content):
            (size,) = struct.unpack("<Q", content[offset : offset + 8])
            event = Event.FromString(content[offset + 12 : offset + 12 + size])
            scalars_read += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            offset += 16 + size
    return scalars_read


def test_tensorboard_holds_the_scalars(tmp_path: Path) -> None:
    (tracker,) = open_trackers(["tensorboard"], tmp_path, run="demo")
    tracker.row(TRAIN)
    tracker.row(EVAL)
    tracker.close()
    (resumed,) = open_trackers(["tensorboard"], tmp_path, run="demo", step=3)
    resumed.row(EVAL | {"step": 5})
    resumed.close()
    name = "eval/code/bits_per_byte"
    expected = {("train/tokens", 3, 192.0), ("train/loss", 3, 2.5), (name, 4, 1.5), (name, 5, 1.5)}
    assert set(read_events(tmp_path / "tensorboard")) == expected


def test_wandb_gets_the_scalars_and_finds_its_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged, started = [], []

    def init(**options: Any) -> SimpleNamespace:
        started.append(options)
        return SimpleNamespace(log=logged.append, define_metric=lambda *_, **__: None, finish=lambda: None)

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    for _ in range(2):
        (tracker,) = open_trackers(["wandb"], tmp_path / "base", run="demo")
        tracker.row(TRAIN)
        tracker.close()
    assert logged == [{"train/tokens": 192.0, "train/loss": 2.5, "step": 3}] * 2
    assert started[0] == started[1]
    assert started[0]["name"] == "demo/base"
    open_trackers(["wandb"], tmp_path / "tail", run="demo")
    assert started[2]["id"] != started[0]["id"]


@pytest.mark.parametrize(
    ("name", "module", "advice"),
    [("wandb", "wandb", "make install EXTRA=wandb"), ("tensorboard", "tensorboardX", "install pathways-lite again")],
)
def test_a_missing_package_is_named_with_how_to_install_it(
    name: str, module: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # importing it fails
    with pytest.raises(UserError, match=f"{module}; .*{advice}"):
        open_trackers([name], tmp_path, run="demo")


def test_an_unknown_tracker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no tracker 'mlflow'\. There are: tensorboard, wandb"):
        open_trackers(["mlflow"], tmp_path, run="demo")
