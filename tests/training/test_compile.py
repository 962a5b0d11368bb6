"""Compiling in the background: once per batch size, interruptible, and its errors are not lost."""

import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from pathways_lite.signals import Interrupted
from pathways_lite.training.compile import StepCompiler


class FakeSetup:
    """Compiles when it is let to."""

    def __init__(self) -> None:
        self.compiled: list[int] = []
        self.let = threading.Event()

    def compile_step(self, sequences: int, seq_len: int | None = None) -> str:
        self.let.wait(30)
        if sequences < 0:
            raise ValueError("cannot")
        self.compiled.append(sequences)
        return f"step for {sequences}"


def make() -> tuple[FakeSetup, StepCompiler]:
    components: Any = FakeSetup()
    return components, StepCompiler(components)


def test_each_size_is_compiled_once() -> None:
    components, compiler = make()
    compiler.start(4)
    components.let.set()
    assert [compiler.get(size, lambda: False) for size in (4, 2, 4)] == ["step for 4", "step for 2", "step for 4"]
    assert sorted(components.compiled) == [2, 4]


def test_a_signal_interrupts_the_wait_and_not_the_compilation() -> None:
    components, compiler = make()
    start = time.monotonic()
    with pytest.raises(Interrupted):
        compiler.get(4, lambda: time.monotonic() - start > 0.2)
    assert time.monotonic() - start < 5
    components.let.set()
    assert compiler.get(4, lambda: False) == "step for 4"


def test_an_error_of_the_compilation_reaches_the_caller() -> None:
    components, compiler = make()
    components.let.set()
    with pytest.raises(ValueError, match="cannot"):
        compiler.get(-1, lambda: False)


def test_nothing_that_makes_imports_lazy_is_left_to_be_imported_while_a_thread_traces() -> None:
    """Reading imports Grain; while that happens, `from m import name` of any thread gives a lazy module."""
    program = (
        "import sys, pathways_lite.training.run\n"
        "from etils import epy\n"
        "def refuse(*_, **__): sys.exit('imports would be lazy')\n"
        "epy.lazy_imports = refuse\n"
        "import grain, orbax.checkpoint"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)
