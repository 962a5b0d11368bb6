"""Machines by description."""

import importlib.util
import subprocess
import sys

import pytest

from pathways_lite.chips import GPUS
from pathways_lite.errors import UserError
from pathways_lite.planner import chips
from pathways_lite.planner.chips import GpuCluster, TpuSlices, parse_machine


def test_slices_of_a_torus():
    machine = parse_machine("v4:12x16x16", 2)
    assert machine == TpuSlices("v4:12x16x16", "v4", (12, 16, 16), 2)
    assert machine.chips == 6144
    assert parse_machine("V6E:16x16").chips == 256


@pytest.mark.parametrize(
    ("text", "wrap"),
    [
        ("v5p:4x4x4", (True, True, True)),
        ("v4:8x8x8", (True, True, True)),
        ("v5p:2x2x4", (False, False, False)),
        ("v6e:16x16", (True, True)),
        ("v5e:8x16", (False, True)),
        ("v5e:4x4", (False, False)),
    ],
)
def test_sides_are_rings_where_the_machine_closes_them(text, wrap):
    assert parse_machine(text).wrap == wrap


@pytest.mark.parametrize(
    ("text", "servers", "per_server"), [("gpu:8xh100", 1, 8), ("gpu:4x8xH100", 4, 8), ("gpu:h100", 1, 1)]
)
def test_gpus(text, servers, per_server):
    assert parse_machine(text) == GpuCluster(text, servers, per_server, GPUS["h100"])
    assert parse_machine(text).chips == servers * per_server


@pytest.mark.parametrize(
    ("text", "slices"),
    [
        ("v9:4x4", 1),
        ("v5p:4x4", 1),
        ("v6e:4x4x4", 1),
        ("v5e", 1),
        ("gpu:8xk80", 1),
        ("gpu:8xh100", 2),
        ("v5e:0x4", 1),
        ("gpu:0xh100", 1),
    ],
)
def test_an_unknown_machine_is_answered_with_a_list(text, slices):
    with pytest.raises(UserError, match=r"unknown machine.*\n.*v5p:4x4x4(.|\n)*gpu:8xh100"):
        parse_machine(text, slices)


def test_without_libtpu_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="make install EXTRA=tpu"):
        chips.require_libtpu()


DEVICES = """
from pathways_lite.errors import UserError
from pathways_lite.planner.chips import parse_machine
for text, slices in (("v5p:4x4x4", 1), ("v4:12x16x16", 2), ("v6e:16x16", 1), ("v5e:2x4", 2)):
    machine = parse_machine(text, slices)
    devices = machine.devices()
    assert len(devices) == machine.chips, text
    assert {device.device_kind for device in devices} == {machine.chip.device_kind}, text
    assert len({getattr(device, "slice_index", None) for device in devices}) == slices, text
try:
    parse_machine("v5e:3x5").devices()
except UserError as error:
    print(error)
"""


@pytest.mark.libtpu
def test_the_described_devices_match_the_name():
    done = subprocess.run([sys.executable, "-c", DEVICES], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("libtpu does not describe v5e:3x5")
