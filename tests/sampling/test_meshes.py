"""Samples are the same on meshes as on one device, whether prompts are shared or not."""

import json

from helpers.eight_devices import run_on_eight_devices


def test_meshes_of_eight_devices():
    result = json.loads(run_on_eight_devices("sample"))
    assert len(result) == 10
    for name, found in result.items():
        assert found["equal"] == 1.0, name
        assert found["off"] < 1e-4, name
