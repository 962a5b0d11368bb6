"""Import a GGUF model: a checkpoint at step 0 of a stage called "imported", written a layer at a time.

Metadata becomes the config.json of the same architecture, which `hf_families` reads, and tensors are dequantized to
float32 when they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pathways_lite.checkpoints import write_streamed
from pathways_lite.conversion.gguf_config import ROPE_FACTORS, Metadata, architecture_of
from pathways_lite.conversion.gguf_files import GGUFReader, counts_by_type
from pathways_lite.conversion.gguf_tokenizer import tokenizer_files
from pathways_lite.conversion.grow_and_merge import initial_meta
from pathways_lite.conversion.hf_config import ConfigReader
from pathways_lite.conversion.hf_families import read_model
from pathways_lite.conversion.hf_import import (
    TensorFiles,
    describe_control,
    imported_stage,
    model_text,
    tokenizer_meta,
    tokenizer_of_import,
    trained_before,
)
from pathways_lite.conversion.hf_names import specs_by_name
from pathways_lite.data.order import DataCursor
from pathways_lite.models.accounting import parameter_count
from pathways_lite.recipe import Model
from pathways_lite.training.companions import carried_tokenizer, published_companions


def import_gguf(
    source: Path, out: Path, tokens: int | None, report: Callable[[str], None], *, tokenizer: Path | None = None
) -> Path:
    """Write the model of a GGUF file as a checkpoint below `out`, in float32. Returns its directory.

    Args:
      source: the file, or any shard of its model.
      tokens: as of `import_hf`.
      report: is told the model, what of the metadata was not understood, and each array when it is written.
      tokenizer: a directory or file that has the model's tokenizer; None: the one in the file.

    Raises UserError, with the key or the tensor, where the decoder cannot compute what the file says, where it is
    damaged or incomplete or of a quantization that cannot be read, where the package gguf is not installed, where `out`
    has such a checkpoint, or where the disk is too small.
    """
    reader = GGUFReader(source)
    metadata = Metadata(reader)
    architecture = architecture_of(metadata)
    config = architecture.config(metadata)
    if unknown := metadata.unknown_keys():
        report(f"not understood in {source}, and taken to change nothing: {', '.join(unknown)}")
    family, model, _ = read_model(ConfigReader(config, metadata.path))
    specs = specs_by_name(model)
    reader.tensors.pop(ROPE_FACTORS, None)  # a scaling of RoPE by now
    files = TensorFiles(reader, architecture.tensors(family, model), model, specs, config="its metadata")
    files.require_whole()
    report(f"{architecture.name}, {parameter_count(model):,} parameters, {counts_by_type(reader.tensors)} tensors")
    report("for a recipe that restores it:")
    report(f"model={model_text(model)}")
    spec = imported_stage(source.stem, model, config["max_position_embeddings"])
    meta = initial_meta(spec, DataCursor(), trained_before(model, tokens), reader.digest())
    meta["imported"] = {"from": "gguf", "family": family.model_type, "config": config, "tokens": tokens}
    companions = _tokenizer_companions(reader, metadata.path, tokenizer, model, config, report)
    meta |= tokenizer_meta(companions)
    meta["imported"]["quantized"] = sorted({tensor.dtype for tensor in reader.tensors.values()} - {"F32"})
    streamed = {f"params.{name}": files.stream(array, report) for name, array in specs.items()}
    return write_streamed(out, 0, streamed, meta, check=lambda: None, companions=companions)


def _tokenizer_companions(
    reader: GGUFReader,
    path: Path,
    other: Path | None,
    model: Model,
    config: Mapping[str, Any],
    report: Callable[[str], None],
) -> dict[str, bytes]:
    """Return the companion files of the tokenizer, of the file's own or of `other`; none, which is reported."""
    if other is not None:
        return tokenizer_of_import(other, model, config, report, given=True)
    files, reason = tokenizer_files(reader.metadata)
    if not files:
        report(f"its tokenizer is left out: {reason}; pass --tokenizer PLACE with its tokenizer.json")
        return {}
    companions = published_companions(files, f"the tokenizer in {path}", config)
    tokenizer = carried_tokenizer(companions, str(path))
    assert tokenizer is not None
    report(f"tokenizer {tokenizer.fingerprint[:12]}, {tokenizer.vocab_size:,} tokens: {describe_control(tokenizer)}")
    return companions
