"""The cost model of collectives, against the formulas by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from pathways_lite.planner import cost_model
from pathways_lite.planner.chips import parse_machine
from pathways_lite.planner.collectives import Collective

GB = 10**9


def mesh_of(machine, *shape):
    """Devices in the order of their coordinates, slices outermost."""
    positions = [(s, c) for s in range(machine.slices) for c in np.ndindex(*machine.shape)]
    devices = [SimpleNamespace(coords=(*c, 0)[:3], slice_index=s) for s, c in positions]
    flat = np.empty(len(devices), object)
    flat[:] = devices
    return SimpleNamespace(devices=flat.reshape(shape or (-1,)))


def collective(kind, bytes_, groups):
    return Collective(kind, "bf16", bytes_, bytes_, np.array(groups), 1, False, 0, "")


@pytest.fixture(autouse=True)
def no_hops(monkeypatch):
    monkeypatch.setattr(cost_model, "HOP_SECONDS", 0.0)


def seconds(kind, bytes_, groups, machine):
    return cost_model.collective_seconds(collective(kind, bytes_, groups), mesh_of(machine), machine)


def test_a_gather_over_a_whole_torus_uses_all_its_links():
    machine = parse_machine("v5p:4x4x4")  # rings in three dimensions, 90 GB/s a link
    everyone = [list(range(64))]
    assert seconds("all-gather", GB, everyone, machine).ici == pytest.approx(1 * 63 / 64 / (6 * 90))
    assert seconds("reduce-scatter", GB, everyone, machine).ici == pytest.approx(1 * 63 / 64 / (6 * 90))
    assert seconds("all-reduce", GB, everyone, machine).ici == pytest.approx(2 * 63 / 64 / (6 * 90))
    assert seconds("all-to-all", GB, everyone, machine).ici == pytest.approx(1 * 4 / (8 * 90))
    assert seconds("all-gather", GB, everyone, machine).dcn == 0


def test_a_side_is_a_ring_or_a_line_or_shared():
    ring, line = parse_machine("v5p:4x4x4"), parse_machine("v5p:2x2x4")
    column = [[0, 1, 2, 3]]
    assert seconds("all-gather", GB, column, ring).ici == pytest.approx(3 / 4 / (2 * 90))
    assert seconds("all-gather", GB, column, line).ici == pytest.approx(3 / 4 / 90)
    assert seconds("all-gather", GB, [[0, 1]], ring).ici == pytest.approx(1 / 2 / 90)  # a part of the ring
    every_other = [[0, 2], [1, 3]]  # two rings share the links: each has half of them
    assert seconds("all-gather", GB, every_other, ring).ici == pytest.approx(1 / 2 / 90)
    neighbors = seconds("collective-permute", GB, [[0, 1]], ring)
    assert neighbors.ici == pytest.approx(1 / 90)


def test_members_that_do_not_form_a_box_count_as_a_line():
    machine = parse_machine("v5p:4x4x4")
    assert seconds("all-gather", GB, [[0, 1, 4, 21]], machine).ici == pytest.approx(3 / 4 / 90)


def test_between_slices_each_chip_has_a_quarter_of_its_host():
    machine = parse_machine("v5p:4x4x4", 2)  # 25 GB/s per host of four
    across = seconds("all-reduce", GB, [[0, 64]], machine)
    assert across == cost_model.CollectiveSeconds(0.0, pytest.approx(2 / 2 / (25 / 4)))
    assert seconds("collective-permute", GB, [[0, 64]], machine) == cost_model.CollectiveSeconds(
        0.0, pytest.approx(1 / (25 / 4))
    )
    everyone = seconds("all-reduce", GB, [list(range(128))], machine)
    assert everyone.dcn == pytest.approx(2 / 64 / 2 / (25 / 4))
    assert everyone.ici == pytest.approx(2 * 63 / 64 / (6 * 90))


def test_the_slowest_group_counts_and_hops_take_time(monkeypatch):
    machine = parse_machine("v5p:4x4x4")
    assert seconds("all-gather", GB, [[0, 1, 2, 3], [4, 5, 6, 7]], machine).ici == pytest.approx(3 / 4 / 180)
    monkeypatch.setattr(cost_model, "HOP_SECONDS", 1e-6)
    assert seconds("all-gather", 0, [[0, 1, 2, 3]], machine).ici == pytest.approx(2e-6)
    assert seconds("all-gather", 0, [list(range(64))], machine).ici == pytest.approx(6e-6)
