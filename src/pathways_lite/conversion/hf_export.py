"""Export a model to Hugging Face: config.json and safetensors that transformers loads with a class of its own."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pathways_lite.atomic_file import replace_atomically
from pathways_lite.checkpoints import CheckpointReader, open_checkpoint, require_undamaged
from pathways_lite.conversion.grow_and_merge import require_parameters
from pathways_lite.conversion.hf_config import CONFIG
from pathways_lite.conversion.hf_match import family_for
from pathways_lite.conversion.hf_names import Tensor, specs_by_name, tensor_shape, to_theirs
from pathways_lite.conversion.safetensors_files import NewTensor, pieces, write_safetensors
from pathways_lite.conversion.tokenizer_export import compare_tokenizers, token_name, tokenizer_files
from pathways_lite.data.tokenizers import HF_FILE, Tokenizer
from pathways_lite.errors import UserError
from pathways_lite.models import ParamSpec
from pathways_lite.training.load import TrainedModel

COMPARED_DOCUMENTS = 1000
"""Held-out documents on which a tokenizer that was converted is compared with ours."""
_COMPARED_TOKENS = 1 << 20  # of each domain, at most


def export_hf(trained: TrainedModel, out: Path, *, dtype: str, shard_bytes: int, report: Callable[[str], None]) -> Path:
    """Write the model to the new directory `out`. Returns it.

    Args:
      dtype: "float32" or "bfloat16".
      report: is told the class, what is folded, and each file when it is written.

    Raises UserError, with the fields, where no class of transformers computes the model, where the parameters to
    evaluate are not those that are stored, or where `out` is not empty; DamagedError where the checkpoint is damaged.
    """
    model = trained.stage.model
    family, config, folds_scale = family_for(model, trained.stage.data.seq_len)
    if model.d_model % model.n_heads:
        raise UserError(
            f"transformers refuses a d_model that is no multiple of n_heads, and d_model={model.d_model} is none of "
            f"n_heads={model.n_heads}"
        )
    trained.require_stored_params("restore it into a stage with another optimizer, and export that one")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} is not empty; name another directory")
    manifest, reader = open_checkpoint(trained.path)
    require_parameters(trained, manifest)
    scale = model.resolved_logit_scale if folds_scale else 1.0
    if folds_scale:
        report(f"the final norm takes the scale of the logits, {scale:g}, which the class has no place for")
    report(f"{family.architecture} ({family.model_type})")
    specs = specs_by_name(model)
    tensors: dict[str, NewTensor] = {}
    for tensor in family.tensors(model):
        layers = range(model.n_layers) if "{i}" in tensor.name else range(1)
        source = _Source(reader, tensor, [specs[name] for name in tensor.arrays], tensor_shape(tensor, specs), scale)
        tensors |= {tensor.name.format(i=layer): source.new_tensor(layer) for layer in layers}
    config |= {"dtype": dtype, "torch_dtype": dtype, **_special_tokens(trained)}
    beside = _tokenizer_files(trained, report)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(out) as temporary:
        shutil.rmtree(temporary, ignore_errors=True)  # of a killed conversion
        temporary.mkdir()
        try:
            write_safetensors(temporary, tensors, dtype, shard_bytes, lambda line: report(_final(line, temporary, out)))
            require_undamaged(trained.path, reader)
            for name, content in beside.items():
                (temporary / name).write_bytes(content)
            (temporary / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return out


def _final(line: str, temporary: Path, out: Path) -> str:
    return line.replace(str(temporary), str(out))


def _opens_and_ends(trained: TrainedModel, tokenizer: Tokenizer) -> tuple[int | None, list[int]]:
    """The id before a text, None where an import's tokenizer puts none there, and those of which each ends one."""
    opener, ends = trained.prompt_tokens(tokenizer)
    frame = trained.frame()
    opens = frame.opens if opener is None else next(iter(opener), None)
    return opens, list(dict.fromkeys((*ends, frame.end) if trained.is_imported else (frame.end, *ends)))


def _special_tokens(trained: TrainedModel) -> dict[str, Any]:
    """The tokens that open and close a document: an import's own, else the corpus's; null where neither is known."""
    ids: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None}
    if (imported := trained.manifest.meta.get("imported")) is not None:
        return {name: imported["config"].get(name) for name in ids}
    try:
        opens, ends = _opens_and_ends(trained, trained.tokenizer())
    except UserError:
        return ids
    return {"bos_token_id": opens, "eos_token_id": ends[0] if len(ends) == 1 else ends}


def _tokenizer_files(trained: TrainedModel, report: Callable[[str], None]) -> dict[str, bytes]:
    """The files of the tokenizer beside the model, after telling what differs from ours; none where it has none."""
    try:
        tokenizer = trained.tokenizer()
    except UserError as error:
        report(f"no tokenizer is written: {str(error).splitlines()[0]}")
        return {}
    opens, ends = _opens_and_ends(trained, tokenizer)
    files = tokenizer_files(tokenizer, opens, ends, trained.stage.data.seq_len)
    report(f"tokenizer: {', '.join(sorted(files))}")
    if HF_FILE not in tokenizer.files() and HF_FILE in files:
        report(str(compare_tokenizers(tokenizer, files[HF_FILE], _held_out_texts(trained, tokenizer))))
    elif not trained.is_imported and opens is not None and tokenizer.control.prefix != (opens,):
        before = ", ".join(token_name(tokenizer, i) for i in tokenizer.control.prefix) or "nothing"
        report(
            f"transformers puts {before} before a text, as the tokenizer's files say; the model's documents began with "
            f"{token_name(tokenizer, opens)}: encode with add_special_tokens=False, and put that first"
        )
    return files


def _held_out_texts(trained: TrainedModel, tokenizer: Tokenizer) -> Iterator[str]:
    """Yield the first held-out documents, to compare tokenizers on: of the corpus, or those that are carried."""
    for tokens in (_COMPARED_TOKENS, trained.stage.evaluation.tokens):
        with contextlib.suppress(UserError):
            source = trained.held_out_documents(tokens=tokens)
            break
    else:
        return
    chosen = (document for domain in source.domains for document in source.held_out(domain, tokens))
    for document in itertools.islice(chosen, COMPARED_DOCUMENTS):
        yield tokenizer.decode(document.tokens[1:].tolist())


class _Source:
    """The arrays of a checkpoint that one tensor, in all its layers, is made of."""

    def __init__(
        self,
        reader: CheckpointReader,
        tensor: Tensor,
        arrays: list[ParamSpec],
        shape: tuple[int, ...],
        final_scale: float,
    ) -> None:
        self._reader, self._tensor, self._arrays, self._shape = reader, tensor, arrays, shape
        self._scale = np.float32(final_scale if arrays[0].is_final_norm else 1.0)

    def new_tensor(self, layer: int) -> NewTensor:
        def make() -> Iterator[np.ndarray]:
            if self._arrays[0].stacked:
                yield to_theirs(self._tensor, [self._read(array, slice(layer, layer + 1))[0] for array in self._arrays],
                                self._arrays)  # fmt: skip
                return
            (array,) = self._arrays
            for part in pieces(self._shape):
                rows = self._read(array, part)
                yield to_theirs(self._tensor, [rows if self._scale == 1 else rows * self._scale], self._arrays)

        return NewTensor(self._shape, make)

    def _read(self, array: ParamSpec, first: slice) -> np.ndarray:
        rest: tuple[Any, ...] = (slice(None),) * (len(array.shape) - (not array.stacked))
        return np.asarray(self._reader.read_slice(f"params.{array.name}", (first, *rest)), np.float32)
