"""What is tried on the day: jobs, each a command that prints results as it gets them, with a limit on its time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from gpu_day.packages import EVERYTHING, JAX, TESTS, TOKAMAX, TRAIN_STEP

PARTS = {
    "device": "what there is, and how fast it multiplies and copies",
    "tests": "the contract of attention, by the compiled Triton kernels",
    "equality": "our kernels, cuDNN's and tokamax's against the definition",
    "train": "a train step of GPT-3 XL (1.3B) in bfloat16, with MFU",
    "attention": "times of our kernels, cuDNN's and tokamax's",
    "demo": "a training run that is killed, resumed and compared bit for bit",
}
KINDS = ("causal", "packed", "prefix", "window")
IMPLEMENTATIONS = ("pallas_gpu", "jax_cudnn", "tokamax_triton", "tokamax_mosaic")
# The environment of all jobs; a job's own overrides it. Programs of a dry run take milliseconds: no optimization.
UNOPTIMIZED = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
GPU = {"JAX_PLATFORMS": "cuda,cpu", "XLA_FLAGS": ""}  # an error where CUDA does not start, instead of the CPU
DRY = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": UNOPTIMIZED}
DETERMINISTIC = {"XLA_FLAGS": "--xla_gpu_deterministic_ops=true"}
# Device memory: JAX takes three quarters at its start, unless several processes share it or a killed one still has it.
ON_DEMAND = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
NEARLY_ALL = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"}  # the step needs 64 GiB, by its ahead-of-time compilation
ON_CPU = {"JAX_PLATFORMS": "cpu"}
CONTRACT = "tests/kernels/attention/test_pallas_gpu.py"


class Job(NamedTuple):
    """A command, and all that belongs to it."""

    name: str
    part: str
    seconds: int  # at most
    command: tuple[str, ...]
    needs: tuple[str, ...] = JAX
    environment: Mapping[str, str] = MappingProxyType({})
    helps: tuple[str, ...] = ()  # packages without which some of its results say that they are missing


def gpu_jobs(out: Path, workers: bool) -> list[Job]:
    """Return the jobs of the day, the most telling first. `workers`: pytest can use several processes."""
    pytest = ("-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider", CONTRACT, "-k", "Compiled")
    peers = (*IMPLEMENTATIONS, "cudnn")
    return [
        Job("device", "device", 40, _tool("measure_device")),
        Job("contract", "tests", 150, (*pytest, *(("-n", "4") if workers else ())), TESTS, DETERMINISTIC | ON_DEMAND),
        Job("equality", "equality", 90, _equality("bfloat16", peers), environment=DETERMINISTIC, helps=TOKAMAX),
        Job("train", "train", 100, _train("pallas_gpu"), TRAIN_STEP, NEARLY_ALL),
        Job("attention_128", "attention", 100, _attention("128"), helps=TOKAMAX),
        Job("corpus", "demo", 50, _corpus(out, "python:", "sentencepiece:4096", "0.03"), EVERYTHING, ON_CPU),
        Job("demo", "demo", 170, _demo(out, GPU_DEMO, "SIGKILL", "SIGTERM"), EVERYTHING, DETERMINISTIC | ON_DEMAND),
        Job("equality_float32", "equality", 50, _equality("float32", ("pallas_gpu",)), environment=DETERMINISTIC),
        Job("attention_64", "attention", 70, _attention("64"), helps=TOKAMAX),
        Job("attention_256", "attention", 70, _attention("256"), helps=TOKAMAX),
        Job("attention_deterministic", "attention", 50, _deterministic_cudnn(), environment=DETERMINISTIC),
        Job("train_deterministic", "train", 100, _train("pallas_gpu"), TRAIN_STEP, DETERMINISTIC | NEARLY_ALL),
        Job("train_chunked", "train", 80, _train("chunked"), TRAIN_STEP, NEARLY_ALL),
        Job("demo_default", "demo", 120, _demo(out, GPU_DEMO, "SIGKILL"), EVERYTHING, ON_DEMAND),
    ]


GPU_DEMO = (
    "stages.base.model.dtype=bfloat16",
    "stages.base.batch_size=16",
    "stages.base.budget=1000 steps",
    "stages.base.saving.every=100",
    "stages.base.evaluation.every=500",
)


def dry_jobs(out: Path) -> list[Job]:
    """Return the same jobs for a CPU: interpreted kernels, tiny shapes, some of the tests."""
    tests = ("definition", "bfloat16", "same_bits", "large_logits")
    contract = f"TestPallasGpu and ({' or '.join(tests)})"
    pytest = ("-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider", "-n", "0", CONTRACT, "-k", contract)
    tiny = ("--interpret", "--lengths", "64", "--head-dims", "16", "--tokens", "64", "--heads", "2", "--key-heads", "1")
    return [
        Job("device", "device", LONG, _tool("measure_device", "--size", "256")),
        Job("contract", "tests", LONG, pytest, TESTS),
        Job("equality", "equality", LONG, _bench(*tiny, "--check", "--kinds", "causal", "packed")),
        Job("train", "train", LONG, _tool("bench_train", "--shape", "tiny", "--dtype", "bfloat16", "--steps", "2")),
        Job("attention", "attention", LONG, _bench(*tiny, "--kinds", "causal", "window", "--repeats", "2")),
        Job("corpus", "demo", LONG, _corpus(out, "docs", "bytes", "0.1"), EVERYTHING),
        Job("demo", "demo", LONG, _demo(out, DRY_DEMO, "SIGKILL"), EVERYTHING),
    ]


LONG = 300  # a dry run waits for a busy machine
DRY_DEMO = (
    "stages.base.model.vocab_size=257",
    "stages.base.model.d_model=32",
    "stages.base.model.n_layers=1",
    "stages.base.model.n_heads=2",
    "stages.base.model.head_dim=16",
    "stages.base.model.d_ff=64",
    "stages.base.data.seq_len=64",
    "stages.base.batch_size=2",
    "stages.base.budget=60 steps",
    "stages.base.saving.every=3",
    "stages.base.evaluation.every=60",
    "stages.base.evaluation.tokens=500",
)


def _tool(name: str, *options: str) -> tuple[str, ...]:
    return (f"tools/{name}.py", *options)


def _train(attention: str) -> tuple[str, ...]:
    return _tool("bench_train", "--shape", "1.3B", "--dtype", "bfloat16", "--steps", "20", "--attention", attention)


def _bench(*options: str, implementations: tuple[str, ...] = IMPLEMENTATIONS) -> tuple[str, ...]:
    return _tool("bench_attention", *options, "--implementations", *implementations)


def _equality(dtype: str, implementations: tuple[str, ...]) -> tuple[str, ...]:
    shape = ("--lengths", "1024", "--tokens", "2048", "--heads", "8", "--key-heads", "2", "--dtypes", dtype)
    options = ("--check", "--head-dims", "64", "128", "256", "--kinds", *KINDS)
    return _bench(*shape, *options, implementations=implementations)


def _attention(
    *head_dims: str,
    kinds: tuple[str, ...] = KINDS,
    implementations: tuple[str, ...] = IMPLEMENTATIONS,
) -> tuple[str, ...]:
    shape = ("--lengths", "4096", "32768", "--tokens", "32768", "--heads", "16", "--key-heads", "16")
    options = ("--head-dims", *head_dims, "--kinds", *kinds, "--repeats", "8")
    return _bench(*shape, *options, implementations=implementations)


def _deterministic_cudnn() -> tuple[str, ...]:
    return _attention("64", "128", kinds=("causal", "window"), implementations=("cudnn",))


def _corpus(out: Path, source: str, tokenizer: str, held_out: str) -> tuple[str, ...]:
    build = ("-m", "pathways_lite", "data", "build", str(out / "corpus"), source, "--replace")
    return (*build, "--tokenizer", tokenizer, "--held-out", held_out)


def _demo(out: Path, overrides: tuple[str, ...], *signals: str) -> tuple[str, ...]:
    corpus = f"stages.base.data.corpus={out / 'corpus'}"
    return _tool(
        "kill_and_resume", "configs/demo.py", corpus, *overrides, "--out", str(out / "demo"), "--signals", *signals
    )
