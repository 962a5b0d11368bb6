"""`pathways-lite convert`: write a model in another format, or read a published one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pathways_lite.cli.argument_order import is_run, require_order
from pathways_lite.cli.common import AsJson, OfAverage, print_json
from pathways_lite.console import print_line
from pathways_lite.errors import UserError
from pathways_lite.paths import local_path
from pathways_lite.suffixes import POWERS_OF_TEN


def convert(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="a run, stage or checkpoint directory; with --from the model's")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", parser=local_path, help="directory of the result")],
    sparse: Annotated[bool, typer.Option("--sparse", help="write a pruned model without its zeros")] = False,
    average: OfAverage = False,
    quantize: Annotated[
        Literal["nearest", "gptq"] | None,
        typer.Option("--quantize", "--quantise", help="write a copy with quantized weights, rounded by this method"),
    ] = None,
    bits: Annotated[int | None, typer.Option(help="with --quantize: bits of a weight, 2 to 8")] = None,
    group: Annotated[
        int | None,
        typer.Option(min=0, help="with --quantize: weights that share a scale; 0: all of an output's; default: 128"),
    ] = None,
    act_order: Annotated[
        bool, typer.Option("--act-order", help="with --quantize gptq: round the most used inputs' weights first")
    ] = False,
    damping: Annotated[
        float | None,
        typer.Option(min=1e-9, help="with --quantize gptq: of the Hessian, by the mean of its diagonal; default: 0.01"),
    ] = None,
    calibration_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="with --quantize gptq: training tokens to calibrate on; default: 128 windows"),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(help="with --quantize gptq: a token store to calibrate on; default: the one of the run"),
    ] = None,
    source: Annotated[
        Literal["hf", "gguf"] | None, typer.Option("--from", help="read a Hugging Face directory or a GGUF file")
    ] = None,
    target: Annotated[Literal["hf"] | None, typer.Option("--to", help="write a Hugging Face model")] = None,
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="with --to hf: of the numbers")] = "float32",
    shard_size: Annotated[str, typer.Option(help="with --to hf: largest file, such as 500MB")] = "5GB",
    tokens: Annotated[
        float | None,
        typer.Option(min=1, help="with --from: tokens that the model was trained on, such as 15e12, for its cost"),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(parser=local_path, help="with --from: the model's tokenizer, where it comes without one"),
    ] = None,
    allow_torch: Annotated[
        bool, typer.Option("--allow-torch", help="with --from hf: let PyTorch read .bin files where nothing else is")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the newest checkpoint at or below RUN in another format, or read a published model.

    With `--sparse` a model with pruned heads, MLP channels or blocks becomes a smaller dense one, which you can
    evaluate, generate with, or start a stage from by `Restore(path=OUT)`. 2:4 patterns are stored as values and
    positions, in 9/16 of the bytes of bfloat16; pruned single weights as parameters with bit masks. docs/sparse.md
    describes the formats.

    With `--average` the parameters of the result are the moving average of those of RUN (`ema` in the recipe); it goes
    with `--sparse` and `--to hf` too.

    With `--quantize` the blocks' kernels are rounded to a few bits; embedding, head and norms stay. The result has the
    rounded weights in float32 and their codes beside them. The same command continues one that was interrupted.
    docs/quantization.md has the formulas.

    With `--from hf` a directory with config.json and safetensors becomes a checkpoint, from which a stage starts by
    `Restore(path=OUT)`, and with `--from gguf` a file of llama.cpp does; with `--to hf` a checkpoint becomes such a
    directory. Either way the tokenizer comes along. docs/public_models.md lists the families.

    Examples:

    - `pathways-lite convert runs/sparse --sparse runs/smaller`

    - `pathways-lite evaluate runs/smaller`

    - `pathways-lite convert runs/averaged --average runs/average`

    - `pathways-lite convert runs/demo --quantize gptq --bits 4 runs/demo_4_bits`

    - `pathways-lite convert Llama-3.2-1B runs/llama --from hf`

    - `pathways-lite convert SmolLM2-135M-Instruct.Q4_1.gguf runs/smollm2 --from gguf`

    - `pathways-lite convert runs/demo demo_hf --to hf --dtype bfloat16`
    """
    if source is None:
        require_order(run, out, "a run or checkpoint", is_run)
    else:
        require_order(run, out, "there", Path.exists)
    formats = [sparse, quantize is not None, source is not None, target is not None].count(True)
    if formats > 1 or not (formats or average):
        raise UserError(
            "give one of --sparse, --average, --quantize, --from hf or gguf, and --to hf: pathways-lite convert RUN "
            "OUT --to hf"
        )
    options = {"--bits": bits, "--group": group}
    of_gptq = {"--act-order": act_order or None, "--damping": damping, "--corpus": corpus}
    _require_quantize(quantize, options, of_gptq | {"--calibration-tokens": calibration_tokens})
    if source is not None and average:
        raise UserError("--average is that of a run; an imported model has none")
    if tokens is not None and source is None:
        raise UserError("--tokens is what an imported model was trained on; it goes with --from hf or gguf")
    if tokenizer is not None and source is None:
        raise UserError("--tokenizer is that of an imported model; it goes with --from hf or gguf")
    if allow_torch and source != "hf":
        raise UserError("--allow-torch reads the pickles of a public model; it goes with --from hf")
    from pathways_lite.checkpoints import require_absent
    from pathways_lite.output_lock import lock_directory
    from pathways_lite.training.load import load_model

    if target is None:
        require_absent(out)  # before anything is read, and said
    if source is not None:
        from pathways_lite.conversion.gguf_import import import_gguf
        from pathways_lite.conversion.hf_import import import_hf

        with lock_directory(out):
            stated = None if tokens is None else int(tokens)
            if source == "gguf":
                path = import_gguf(local_path(run), out, stated, report=print_line, tokenizer=tokenizer)
            else:
                path = import_hf(
                    local_path(run), out, stated, report=print_line, tokenizer=tokenizer, allow_torch=allow_torch
                )
    elif target is not None:
        from pathways_lite.conversion.hf_export import export_hf

        model, limit = load_model(run, examined=False, average=average), _bytes(shard_size)
        path = export_hf(model, out, dtype=dtype, shard_bytes=limit, report=print_line)
    elif quantize is not None:
        from pathways_lite.conversion.quantized_export import convert_quantized
        from pathways_lite.methods.quantization import Quantization
        from pathways_lite.training.calibration_text import read_calibration_text

        assert bits is not None
        size = 128 if group is None else group or None
        how = Quantization(quantize, bits, size, 0.01 if damping is None else damping, act_order)
        with lock_directory(out):
            model = load_model(run, examined=False, average=average)
            text = read_calibration_text(model, calibration_tokens, corpus) if quantize == "gptq" else None
            path = convert_quantized(model, how, text, out, report=print_line)
    else:
        from pathways_lite.conversion.average_export import convert_average
        from pathways_lite.conversion.sparse_export import convert_sparse

        with lock_directory(out):
            write = convert_sparse if sparse else convert_average
            path = write(load_model(run, examined=False, average=average), out, report=print_line)
    if as_json:
        print_json({"checkpoint" if target is None else "model": path})
    else:
        typer.echo(path)


def _require_quantize(method: str | None, options: dict[str, Any], of_gptq: dict[str, Any]) -> None:
    """Raise UserError where options of --quantize are missing, or given for something else."""
    given = [name for name, value in (options | of_gptq).items() if value is not None]
    if method is None and given:
        raise UserError(f"{given[0]} is of a quantized copy: pathways-lite convert RUN OUT --quantize gptq --bits 4")
    if method is not None and options["--bits"] is None:
        raise UserError(f"--quantize {method} needs --bits, 2 to 8: convert RUN OUT --quantize {method} --bits 4")
    if method == "nearest" and (given := [name for name in given if name in of_gptq]):
        raise UserError(f"{given[0]} is of calibration, which --quantize gptq does; rounding to nearest has none")


def _bytes(text: str) -> int:
    """Read a size such as 5GB or 500MB. Raises UserError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kKMGTP]?)B?", text.strip())
    if match is None or float(match[1]) == 0:
        raise UserError(f"--shard-size={text!r} is no size; write e.g. 5GB or 500MB")
    return int(float(match[1]) * 10 ** (POWERS_OF_TEN[match[2]] if match[2] else 0))
