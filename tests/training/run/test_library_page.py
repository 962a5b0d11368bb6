"""The lines of docs/library.md run, and give what the page says."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pathways_lite.batch import Batch
from pathways_lite.checkpoint_names import checkpoint_name
from pathways_lite.checkpoints import step_of
from pathways_lite.tracking.log import read_log

PAGE = Path(__file__).parents[3] / "docs" / "library.md"


def code_after(text: str) -> str:
    """Return the first code after a heading or sentence of the page."""
    return re.findall(r"```python\n(.*?)```", PAGE.read_text().partition(text)[2], re.DOTALL)[0]


def test_the_ten_lines(recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = code_after("in ten lines:")
    assert len([line for line in code.splitlines() if line]) <= 10
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(20)))
    for written, here in {
        '"configs/demo.py"': repr(str(recipe_file)), '"python:"': '"text.jsonl"', "sentencepiece:4096": "bytes",
        "500 steps": "2 steps",
    }.items():  # fmt: skip
        assert written in code
        code = code.replace(written, here)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["logits"].shape == (len("The string") + 1, 257)
    assert len(names["score"].nll) == len("is empty")
    assert names["trained"].checkpoint.manifest.step == 2
    assert (tmp_path / "demo_hf" / "config.json").is_file()


def test_the_own_loop(recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    code = code_after("A loop of your own")
    assert len([line for line in code.splitlines() if line]) <= 10
    monkeypatch.chdir(tmp_path)
    exec(code.replace('"configs/demo.py"', repr(str(recipe_file))).replace("% 100 == 99", "% 10 == 9"), {})
    assert capsys.readouterr().out.startswith("9 ")
    assert (tmp_path / "runs" / "own" / "base" / "summary.json").is_file()


def test_the_loop_takes_the_steps_of_the_run(uninterrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = code_after("## One step again")
    path = re.search(r'"(runs/.*)"', code)[1]
    first = min(step_of(p) for p in (uninterrupted / "base" / "checkpoints").iterdir())
    names: dict[str, Any] = {}
    exec(code.replace(path, str(uninterrupted / "base" / "checkpoints" / checkpoint_name(first))), names)
    rows = {row["step"]: row for row in read_log(uninterrupted / "base" / "log.jsonl") if row["kind"] == "train"}
    expected = [f"{step} {float(np.float32(rows[step]['loss']))}" for step in range(first + 1, first + 4)]
    assert capsys.readouterr().out.splitlines() == expected
    assert len(repr(names["model"])) < 300
    assert all(f"| `{field}` |" in PAGE.read_text() for field in Batch._fields)


def test_every_function_that_the_page_names_exists() -> None:
    import importlib

    text = PAGE.read_text()
    named = re.findall(r"`(?:pathways_lite\.)?((?:[a-z_]+\.)+)([a-z_]+)(?=[`(])", text)
    checked = 0
    for module, name in named:
        if module.startswith(("model.", "jax.", "pl.", "step.", "generation_config", "tokenizer_config")):
            continue
        assert hasattr(importlib.import_module(f"pathways_lite.{module.rstrip('.')}"), name), f"{module}{name}"
        checked += 1
    assert checked > 8
