"""Pickles are read only where the user asks for it, by PyTorch's safe loader, and as safetensors files are."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from helpers.hf_goldens import write_published
from pathways_lite.conversion.hf_import import import_hf
from pathways_lite.conversion.safetensors_files import SafetensorsReader
from pathways_lite.conversion.torch_files import INDEX, SINGLE
from pathways_lite.errors import UserError
from pathways_lite.training.load import load_model

TORCH_PYTHON = os.environ.get("PATHWAYS_LITE_TORCH_PYTHON", sys.executable)
"""An interpreter that has torch."""


class Tensor:
    """As much of PyTorch's tensors as is used."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.dtype, self.shape = values, f"torch.{values.dtype}", values.shape

    def __getitem__(self, rows: slice) -> "Tensor":
        return Tensor(self.values[rows])

    def detach(self) -> "Tensor":
        return self

    def to(self, dtype: Any) -> "Tensor":
        return Tensor(self.values.astype(dtype))

    def numpy(self) -> np.ndarray:
        return self.values


def load(path: Path, *, map_location: str, weights_only: bool, mmap: bool = False) -> Any:
    assert (map_location, weights_only) == ("cpu", True), "never without"
    if mmap:
        raise RuntimeError("mmap can only be used with files saved with the new zipfile format")
    content = pickle.loads(path.read_bytes())
    return content if isinstance(content, list) else {name: Tensor(value) for name, value in content.items()}


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """PyTorch, as far as it is used, without PyTorch."""
    module = SimpleNamespace(__version__="2.13.0+cpu", load=load, Tensor=Tensor, float32=np.float32)
    monkeypatch.setitem(sys.modules, "torch", module)
    return module


def pickled(directory: Path, shards: int = 1) -> Path:
    """A published model whose files are pickles of NumPy arrays; `shards`: how many."""
    write_published(directory, "smollm")
    held = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(held)
    files = [SINGLE] if shards == 1 else [f"pytorch_model-{n + 1:05d}-of-{shards:05d}.bin" for n in range(shards)]
    for number, file in enumerate(files):
        (directory / file).write_bytes(pickle.dumps({name: held[name] for name in names[number::shards]}))
    if shards > 1:
        weight_map = {name: files[number % shards] for number, name in enumerate(names)}
        (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return directory


def digest(path: Path) -> str:
    return load_model(path).manifest.digest


def convert(source: Path, out: Path, **options: Any) -> Path:
    return import_hf(source, out, None, lambda line: None, **options)


@pytest.mark.parametrize("shards", [1, 3])
def test_pickles_give_what_safetensors_files_give(shards: int, torch: SimpleNamespace, tmp_path: Path) -> None:
    expected = convert(write_published(tmp_path / "safe", "smollm"), tmp_path / "expected")
    source = pickled(tmp_path / "hf", shards)
    with pytest.raises(UserError, match=r"so it is refused: .* with --allow-torch"):
        convert(source, tmp_path / "out")
    assert digest(convert(source, tmp_path / "out", allow_torch=True)) == digest(expected)


def test_where_there_are_safetensors_files_no_pickle_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it fails
    source = write_published(tmp_path / "hf", "smollm")
    (source / SINGLE).write_bytes(b"not read")
    convert(source, tmp_path / "out", allow_torch=True)


def test_what_is_missing_or_no_model_is_said_in_a_sentence(torch: SimpleNamespace, tmp_path: Path) -> None:
    def refused(sentence: str, source: Path) -> None:
        with pytest.raises(UserError, match=sentence):
            convert(source, tmp_path / "out", allow_torch=True)
        assert not list(tmp_path.glob("out/step*")), "nothing that looks whole is left"

    source = pickled(tmp_path / "hf", 2)
    (source / "pytorch_model-00002-of-00002.bin").unlink()
    refused("lacks pytorch_model-00002-of-00002.bin, which pytorch_model.bin.index.json names", source)
    (source / INDEX).write_text("{}")
    refused("does not say which files hold the tensors", source)
    source = pickled(tmp_path / "single")
    content = (source / SINGLE).read_bytes()
    (source / SINGLE).write_bytes(content[:-100])
    refused(r"is not read by torch.load\(weights_only=True\)", source)
    (source / SINGLE).write_bytes(pickle.dumps([1, 2]))
    refused("holds more than the tensors of a model by their names", source)
    (source / SINGLE).rename(source / "optimizer.pt")
    refused("lacks pytorch_model.bin, which a model of PyTorch has", source)


def test_without_a_safe_pytorch_none_is_read(
    torch: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = pickled(tmp_path / "hf")
    torch.__version__ = "2.5.1"
    with pytest.raises(UserError, match=r"CVE-2025-32434.*install 2.6 or newer"):
        convert(source, tmp_path / "out", allow_torch=True)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="PyTorch, which is not installed; install it with: uv pip install torch"):
        convert(source, tmp_path / "out", allow_torch=True)


SCRIPT = """
import pickle, sys
from pathlib import Path
import numpy as np, torch
from safetensors.torch import load_file
from pathways_lite.conversion.torch_files import TorchReader
from pathways_lite.errors import UserError

source, kind = Path(sys.argv[1]), sys.argv[2]
held = load_file(source / "model.safetensors")
if kind == "bfloat16":
    held = {name: value.bfloat16() for name, value in held.items()}
torch.save(held, source / "pytorch_model.bin", _use_new_zipfile_serialization=kind != "old")
reader = TorchReader(source)
assert bool(reader._mapped) == (kind != "old"), "read as it is asked for"
np.savez(sys.argv[3], rows=reader.read("model.embed_tokens.weight", slice(3, 7)),
         **{name: reader.read(name) for name in reader.tensors})
class Program:
    def __reduce__(self):
        return Path.write_text, (source / "ran", "")
(source / "pytorch_model.bin").write_bytes(pickle.dumps({"model.norm.weight": Program()}))
try:
    TorchReader(source)
except UserError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["new", "old", "bfloat16"])
def test_pytorch_itself_reads_the_same_and_runs_no_program(kind: str, tmp_path: Path) -> None:
    probe = subprocess.run([TORCH_PYTHON, "-c", "import torch, safetensors, ml_dtypes"], capture_output=True)
    if probe.returncode:
        pytest.skip(f"torch and ml_dtypes are not installed in {TORCH_PYTHON}; see PATHWAYS_LITE_TORCH_PYTHON")
    source = write_published(tmp_path / "hf", "qwen2")
    root = Path(__file__).parents[2]
    path = os.pathsep.join(str(root / part) for part in ("src", "kernels"))
    command = [TORCH_PYTHON, "-c", SCRIPT, str(source), kind, str(tmp_path / "read.npz")]
    ended = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "is damaged, or holds more than tensors" in ended.stdout
    assert not (source / "ran").exists()
    safe = SafetensorsReader(source)
    with np.load(tmp_path / "read.npz") as read:
        assert set(read) == {*safe.tensors, "rows"}
        for name in safe.tensors:
            expected = safe.read(name)
            error = 2.0**-8 if kind == "bfloat16" else 0
            np.testing.assert_allclose(read[name], expected, rtol=error, atol=0, err_msg=name)
        np.testing.assert_array_equal(read["rows"], read["model.embed_tokens.weight"][3:7])
