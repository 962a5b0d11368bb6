"""Import a Hugging Face model: a checkpoint at step 0 of a stage called "imported", written a layer at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pathways_lite.checkpoints import StreamedArray, write_streamed
from pathways_lite.conversion.grow_and_merge import initial_meta
from pathways_lite.conversion.hf_config import CONFIG, ConfigReader
from pathways_lite.conversion.hf_families import read_model
from pathways_lite.conversion.hf_names import IGNORED, SAME_TENSOR, Tensor, specs_by_name, tensor_shape, to_ours
from pathways_lite.conversion.hf_text_part import TextPartReader, text_config
from pathways_lite.conversion.safetensors_files import SafetensorsReader, TensorReader, pieces, safetensors_files
from pathways_lite.conversion.torch_files import TorchReader
from pathways_lite.data.order import DataCursor
from pathways_lite.data.tokenizer_files import has_tokenizer, load_tokenizer, read_published_files, stored_tokenizer
from pathways_lite.data.tokenizers import HF_FILE, SENTENCEPIECE_FILE, Tokenizer
from pathways_lite.errors import UserError, similar_path
from pathways_lite.ledger import Ledger
from pathways_lite.models import ParamSpec
from pathways_lite.models.accounting import palm_flops_per_token, parameter_count
from pathways_lite.recipe import AdamW, Data, Model, Recipe, Stage, Steps
from pathways_lite.training.companions import carried_tokenizer, framed_companions, published_companions
from pathways_lite.training.stage import StageSpec


def import_hf(
    source: Path,
    out: Path,
    tokens: int | None,
    report: Callable[[str], None],
    *,
    tokenizer: Path | None = None,
    allow_torch: bool = False,
) -> Path:
    """Write the model in the directory `source` as a checkpoint below `out`, in float32. Returns its directory.

    Args:
      tokens: that the model was trained on, as the user states; its cost is then 6 N D. None: its cost is unknown.
      allow_torch: whether PyTorch reads pickles where there are no safetensors files.
      report: is told the model, what of config.json was not understood, and each array when it is written.
      tokenizer: a directory or file that has the model's tokenizer; None: `source`, if it has one.

    Raises UserError, with the key or the tensor, where the decoder cannot compute what the files say, where they are
    damaged or incomplete, where `out` has such a checkpoint, or where the disk is too small.
    """
    config = ConfigReader.open(source)
    part = text_config(config)
    config = part or config
    family, model, unknown = read_model(config)
    if unknown:
        report(f"not understood in {config.path}, and taken to change nothing: {', '.join(unknown)}")
    pickled = allow_torch and not safetensors_files(source)
    reader: TensorReader = TorchReader(source) if pickled else SafetensorsReader(source)
    if part is not None:
        report("the text model alone: the vision tower and its projector are left out")
        reader = TextPartReader(reader)
    specs = specs_by_name(model)
    files = TensorFiles(reader, family.tensors(model), model, specs)
    files.require_whole()
    report(f"{family.model_type}, {parameter_count(model):,} parameters; for a recipe that restores it:")
    report(f"model={model_text(model)}")
    spec = imported_stage(source.resolve().name, model, config.count("max_position_embeddings", 2048))
    meta = initial_meta(spec, DataCursor(), trained_before(model, tokens), reader.digest())
    meta["imported"] = {"from": "hf", "family": family.model_type, "config": dict(config.values), "tokens": tokens}
    companions = tokenizer_of_import(tokenizer or source, model, config.values, report, given=tokenizer is not None)
    meta |= tokenizer_meta(companions)
    streamed = {f"params.{name}": files.stream(array, report) for name, array in specs.items()}
    return write_streamed(out, 0, streamed, meta, lambda: None, companions)


def tokenizer_of_import(
    place: Path, model: Model, config: Mapping[str, Any], report: Callable[[str], None], *, given: bool
) -> dict[str, bytes]:
    """Return the companion files of the tokenizer in `place`; none, and say what to pass, where there is none.

    Args:
      place: a directory with the files of a tokenizer, or a tokenizer.json or .model by itself.
      config: the model's config.json.
      given: whether the user named `place`, which may then be a run, a checkpoint or a corpus, and must hold one.

    Raises UserError for a tokenizer that cannot be read, and where a given place has none.
    """
    if given and not place.exists():
        advice = "name one with a tokenizer.json or .model"
        raise UserError(f"--tokenizer {place}: no such file or directory; {advice}{similar_path(place)}")
    if given and place.is_file() and place.suffix not in (".json", ".model"):
        raise UserError(
            f"--tokenizer {place} is no tokenizer file; expected a tokenizer.json or a SentencePiece .model"
        )
    if given and stored_tokenizer(place) is not None:
        companions = framed_companions(load_tokenizer(place))
    else:
        files = (
            {HF_FILE if place.suffix == ".json" else SENTENCEPIECE_FILE: place.read_bytes()}
            if place.is_file()
            else read_published_files(place)
        )
        if given and not has_tokenizer(files):
            raise UserError(
                f"--tokenizer {place} holds no tokenizer; name a directory with a tokenizer.json or tokenizer.model, "
                "one of these files, or a run, checkpoint or corpus that carries one"
            )
        if not has_tokenizer(files):
            report(
                f"{place} has no tokenizer.json or tokenizer.model, so the checkpoint carries no tokenizer: pass "
                "--tokenizer PLACE here, or --corpus CORPUS to generate and evaluate"
            )
            return {}
        companions = published_companions(files, str(place), config)
    tokenizer = carried_tokenizer(companions, str(place))
    assert tokenizer is not None
    beyond = tokenizer.vocab_size - model.vocab_size
    if beyond > 0:
        report(f"the tokenizer's last {beyond} tokens have no row in the model's embedding of {model.vocab_size:,}")
    report(f"tokenizer {tokenizer.fingerprint[:12]}, {tokenizer.vocab_size:,} tokens: {describe_control(tokenizer)}")
    return companions


def tokenizer_meta(companions: Mapping[str, bytes]) -> dict[str, str]:
    """Return what a checkpoint's metadata says of the tokenizer among its companion files."""
    tokenizer = carried_tokenizer(companions, "the checkpoint")
    return {} if tokenizer is None else {"tokenizer": tokenizer.fingerprint}


def describe_control(tokenizer: Tokenizer) -> str:
    """Say which tokens open and end a text, e.g. `BOS 1 before every text, EOS 2, documents end with 2`."""
    control = tokenizer.control
    before = ", ".join(map(str, control.prefix))
    bos = "no BOS" if control.bos is None else f"BOS {control.bos}"
    bos += f", {before} before every text" if before else ", nothing before a text"
    return f"{bos}, EOS {' '.join(map(str, control.eos))}, EOD {tokenizer.eod}"


def trained_before(model: Model, tokens: int | None) -> Ledger:
    """Return the cost of a model's training elsewhere: 6 N D without attention as its user states, or unknown."""
    if tokens is None:
        return Ledger(cost_elsewhere="unknown")
    parameters = parameter_count(model)
    flops = palm_flops_per_token(parameters, model.n_layers, model.n_heads, model.head_dim, seq_len=0) * tokens
    return Ledger(
        tokens=tokens,
        flops=flops,
        sparse_flops=flops,
        active_parameter_tokens=parameters * tokens,
        cost_elsewhere="stated",
    )


def model_text(model: Model) -> str:
    """Write a model as a recipe file does, without the fields that have their default, but with what it computes in."""
    fields = {name: field.default for name, field in type(model).model_fields.items()}
    given = [
        f"{name}={value!r}"
        for name, default in fields.items()
        if (value := getattr(model, name)) != default or name == "dtype"
    ]
    return f"Model({', '.join(given)})"


def imported_stage(name: str, model: Model, max_positions: int) -> StageSpec:
    """The stage that the checkpoint belongs to. It was never trained here, so only its model and length mean much."""
    stage = Stage(
        name="imported",
        model=model,
        data=Data(corpus="", seq_len=max_positions),
        optimizer=AdamW(),
        batch_size=1,
        budget=Steps(n=1),
    )
    return StageSpec(Recipe(name=name, stages=(stage,)), 0)


class TensorFiles:
    """The tensors of a model in its files, by our arrays. `config` names what says the model, for errors."""

    def __init__(
        self,
        reader: TensorReader,
        tensors: list[Tensor],
        model: Model,
        specs: dict[str, ParamSpec],
        config: str = CONFIG,
    ) -> None:
        self._reader, self._tensors, self._model, self._specs, self._config = reader, tensors, model, specs, config
        self._by_array = {name: tensor for tensor in tensors for name in tensor.arrays}

    def require_whole(self) -> None:
        """Raise UserError where a tensor is missing, of another shape, or not of this model."""
        expected: dict[str, tuple[int, ...]] = {}
        for tensor in self._tensors:
            shape = tensor_shape(tensor, self._specs)
            layers = range(self._model.n_layers) if "{i}" in tensor.name else range(1)
            expected |= {self._name_in_file(tensor, layer): shape for layer in layers}
        stored = self._reader.tensors
        missing = [name for name in expected if name not in stored]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UserError(f"the files have no tensor {missing[0]}{more}, which {self._config} asks for")
        for name, shape in expected.items():
            if stored[name].shape != shape:
                raise UserError(f"{name} in {stored[name].path} is {stored[name].shape}; {self._config} says {shape}")
        extra = [name for name in stored if name not in expected and not IGNORED.search(name)]
        if self._model.tie_embeddings:
            extra = [name for name in extra if not self._is_copy_of_embedding(name)]
        if extra:
            more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
            raise UserError(
                f"{extra[0]} in {stored[extra[0]].path}{more} {'have' if more else 'has'} no place in the model that "
                f"{self._config} says; its logits would be others"
            )

    def _name_in_file(self, tensor: Tensor, layer: int) -> str:
        name = tensor.name.format(i=layer)
        for newer, older in SAME_TENSOR.items():
            if name == older and name not in self._reader.tensors and newer in self._reader.tensors:
                return newer
        return name

    def _is_copy_of_embedding(self, name: str) -> bool:
        """Whether a head beside a tied embedding is equal to it. Raises UserError where it differs."""
        if name not in (*SAME_TENSOR, *SAME_TENSOR.values()):
            return False
        table = self._name_in_file(self._by_array["embedding"], 0)
        rows = pieces(self._reader.tensors[table].shape)
        if self._reader.tensors[name].shape != self._reader.tensors[table].shape or not all(
            np.array_equal(self._reader.read(name, part), self._reader.read(table, part)) for part in rows
        ):
            raise UserError(
                f"config.json says tie_word_embeddings, but {name} is another tensor than {table}; set "
                "tie_word_embeddings to false there if the model has a head of its own"
            )
        return True

    def stream(self, array: ParamSpec, report: Callable[[str], None]) -> StreamedArray:
        """Stream one of our arrays: a chunk per layer, or rows of a table."""
        tensor = self._by_array[array.name]
        shape = (self._model.n_layers, *array.shape) if array.stacked else array.shape
        rows = pieces(shape)
        chunk_shape = (1, *array.shape) if array.stacked else (rows[0].stop - rows[0].start, *shape[1:])

        def make() -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
            report(f"params.{array.name} {list(shape)} float32")
            rest = (0,) * (len(shape) - 1)
            if array.stacked:
                for layer in range(self._model.n_layers):
                    value = self._reader.read(self._name_in_file(tensor, layer))
                    yield (layer, *rest), to_ours(tensor, value, array)[None]
                return
            for part in rows:
                value = self._reader.read(self._name_in_file(tensor, 0), part)
                yield (part.start, *rest), to_ours(tensor, value, array)

        return StreamedArray(shape, "float32", chunk_shape, make)
