"""The lines of docs/library.md run, and give what the page says."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.run_helpers import TOTAL
from pathways_lite.batch import Batch
from pathways_lite.checkpoint_names import checkpoint_name
from pathways_lite.checkpoints import step_of
from pathways_lite.tracking.log import read_log

PAGE = Path(__file__).parents[3] / "docs" / "library.md"


def test_the_ten_lines(uninterrupted: Path) -> None:
    code, *_ = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    path = re.search(r'"(runs/.*)"', code)[1]
    statements = [line for line in code.splitlines() if line and "import " not in line]
    assert len(statements) == 10
    names: dict[str, Any] = {}
    earlier = max(p for p in (uninterrupted / "base" / "checkpoints").iterdir() if step_of(p) < TOTAL)
    exec(code.replace(path, str(earlier)), names)
    config, documents = names["config"], names["documents"]
    for document, logits, losses in zip(documents, names["logits"], names["losses"], strict=True):
        assert logits.shape == (len(document), config.vocab_size)
        assert losses.shape == (len(document),)
    assert names["step"] == step_of(earlier)
    assert int(names["state"].step) == step_of(earlier) + 1
    assert names["batch"].tokens.shape[1] == names["model"].stage.data.seq_len
    assert isinstance(names["text"], str)
    rows = {row["step"]: row for row in read_log(uninterrupted / "base" / "log.jsonl") if row["kind"] == "train"}
    assert names["metrics"]["loss"] == np.float32(rows[step_of(earlier) + 1]["loss"])


def test_the_loop_takes_the_steps_of_the_run(uninterrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    *_, code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
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
        if module.startswith(("model.", "jax.", "generation_config", "tokenizer_config")):
            continue
        assert hasattr(importlib.import_module(f"pathways_lite.{module.rstrip('.')}"), name), f"{module}{name}"
        checked += 1
    assert checked > 8
