import io
import math
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pathways_lite.tracking.formatting import byte_size, duration, memory_unit, round_apart, si, time_unit
from pathways_lite.tracking.progress import Progress


class Clock:
    """Time that passes only when told."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def train(progress: Progress, clock: Clock, steps: int, *, seconds: float = 1.0) -> None:
    for step in range(1, steps + 1):
        clock.time += seconds
        progress.update(
            step, tokens=100 * step, mean_loss=5.0, loss_steps=1, tokens_per_second=100.0, flops_per_second=5e10
        )


def plain_progress(**options: float) -> tuple[Progress, io.StringIO, Clock]:
    file, clock = io.StringIO(), Clock()
    console = Console(file=file, force_terminal=False)
    progress = Progress("demo", total_steps=100, total_tokens=10_000, console=console, now=clock, **options)
    return progress, file, clock


def test_without_a_terminal_there_are_plain_lines_every_few_seconds() -> None:
    progress, file, clock = plain_progress(interval=5.0, peak_flops=1e11)
    with progress:
        with progress.show_phase("compiling the train step"):
            clock.time += 12
        train(progress, clock, 20)
    lines = file.getvalue().splitlines()
    assert lines[:2] == ["demo: compiling the train step ...", "demo: compiling the train step: 12 s"]
    assert len(lines) == 2 + 4
    assert all(line.startswith("demo: step ") for line in lines[2:])
    assert (
        "step 16/100, loss 5.0000 (mean of 1 step), 100 tokens/s, 50 GFLOP/s, 50% of peak, 1 min 24 s left" in lines[-1]
    )
    assert "\x1b" not in file.getvalue()
    assert "\r" not in file.getvalue()


def test_later_phases_are_told_only_where_they_took_long() -> None:
    progress, file, clock = plain_progress(interval=5.0)
    train(progress, clock, 1)
    for seconds in (1, 30):
        with progress.show_phase("evaluating"):
            clock.time += seconds
    assert [line for line in file.getvalue().splitlines() if "evaluating" in line] == ["demo: evaluating: 30 s"]


def test_a_later_phase_that_takes_long_is_told_before_it_ends() -> None:
    """The innermost one alone; one that is over is not."""
    progress, file, clock = plain_progress(interval=0.02)
    train(progress, clock, 1)
    with progress.show_phase("summarizing"), progress.show_phase("writing samples"):
        until = time.monotonic() + 10
        while "samples" not in file.getvalue() and time.monotonic() < until:
            time.sleep(0.01)
        assert file.getvalue().splitlines()[-1] == "demo: writing samples ..."
        assert "summarizing" not in file.getvalue()


def test_the_last_step_is_always_printed() -> None:
    progress, file, clock = plain_progress(interval=1e9)
    with progress:
        train(progress, clock, 100)
    assert "step 100/100" in file.getvalue()


def held_out(**bits: float) -> dict[str, dict[str, float]]:
    return {name: {"bits_per_byte": value} for name, value in bits.items()}


def test_an_evaluation_without_text_is_not_printed_and_lossy_ones_are_marked() -> None:
    progress, file, _ = plain_progress()
    progress.show_evaluation(3, {})
    assert "held out" not in file.getvalue()
    progress.show_evaluation(3, {"code": {"bits_per_byte": 0.02, "lossy": True}})
    assert "held out: code 0.020* bits per byte" in file.getvalue()
    progress.show_evaluation(3, held_out(**{f"d{i}": 1.0 for i in range(100)}))
    assert "d19 1.000 and 80 more domains" in file.getvalue()


def test_an_evaluation_is_printed_with_its_own_step() -> None:
    """Not with the step of the last update, which exists only for logged steps."""
    progress, file, clock = plain_progress()
    train(progress, clock, 25)
    progress.show_evaluation(28, held_out(code=2.0))
    assert file.getvalue().splitlines()[-1] == "demo: step 28: held out: code 2.000 bits per byte"


def test_each_line_is_one_write() -> None:
    """So that lines of several processes in one file are not torn."""

    class File(io.StringIO):
        def write(self, text: str) -> int:
            assert text.endswith("\n")
            return super().write(text)

    clock = Clock()
    console = Console(file=File(), force_terminal=False)
    with Progress("demo", total_steps=3, total_tokens=300, console=console, now=clock) as progress:
        train(progress, clock, 3)
        progress.show_evaluation(3, held_out(code=2.0))
        progress.print_note("a message " * 50)


def test_time_left_counts_what_interrupts_training() -> None:
    progress, _, clock = plain_progress()
    progress.update(10, tokens=1000, mean_loss=5.0, loss_steps=1, tokens_per_second=100.0, flops_per_second=1.0)
    clock.time += 10
    with progress.show_phase("evaluating"):
        clock.time += 10
    progress.update(20, tokens=2000, mean_loss=5.0, loss_steps=1, tokens_per_second=100.0, flops_per_second=1.0)
    assert progress.status.remaining == pytest.approx(8000 / 50)


def test_a_loss_that_is_not_finite_leaves_the_average() -> None:
    progress, _, _ = plain_progress()
    for loss in (4.0, math.nan, math.inf, 4.0):
        progress.update(1, tokens=1, mean_loss=loss, loss_steps=1, tokens_per_second=1.0, flops_per_second=1.0)
        assert progress.status.mean_loss == 4.0


def test_the_time_of_a_phase_is_its_own() -> None:
    progress, file, clock = plain_progress()
    with progress.show_phase("summarizing"):
        clock.time += 1
        for _ in range(2):
            with progress.show_phase("writing samples"):
                clock.time += 20
        clock.time += 2
    lines = file.getvalue().splitlines()
    assert [line.split(": ", 1)[1] for line in lines if line.endswith(" s")] == [
        "writing samples: 20 s", "writing samples: 20 s", "summarizing: 3.0 s"
    ]  # fmt: skip


def test_a_phase_ends_when_it_is_interrupted() -> None:
    progress, _, _ = plain_progress()

    def save() -> None:
        with progress.show_phase("saving"):
            assert progress.status.phase == "saving"
            raise KeyboardInterrupt

    assert progress.status.phase == "starting"
    progress.begin_training()
    with pytest.raises(KeyboardInterrupt):
        save()
    assert progress.status.phase == "training"


def test_a_terminal_shows_everything_within_its_width() -> None:
    file, clock = io.StringIO(), Clock()
    console = Console(file=file, force_terminal=True, width=72, height=20, color_system=None)
    progress = Progress(
        "demo", total_steps=50, total_tokens=5_000, peak_flops=1e11, console=console, now=clock, step=10
    )
    with progress:
        with progress.show_phase("compiling the train step"):
            console.print(progress._render())
        train(progress, clock, 50)
        progress.show_evaluation(50, held_out(code=1.5, prose=2.25))
        progress.show_save(50)
        clock.time += 65
        console.print(progress._render())
    shown = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", file.getvalue())
    for text in (
        "10/50", "compiling the train step", "50/50", "loss 5.0000", "100 tokens/s", "50 GFLOP/s", "50% of peak",
        "held out: code 1.500, prose 2.250 bits per byte", "checkpoint 50, 1 min 05 s ago", "training",
    ):  # fmt: skip
        assert text in shown
    assert max(len(line) for line in shown.splitlines()) <= 72


@given(st.floats(1, 1e20))
def test_si_keeps_three_digits(value: float) -> None:
    number, prefix = si(value, "B").removesuffix("B").split(" ")
    factor = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}[prefix]
    assert float(number) * factor == pytest.approx(value, rel=5.1e-3)
    assert 1 <= float(number) < 1000


def test_durations() -> None:
    spans = {3.14: "3.1 s", 9.99: "10 s", 42: "42 s", 59.7: "1 min 00 s", 185: "3 min 05 s", 7620: "2 h 07 min"}
    assert {seconds: duration(seconds) for seconds in spans} == spans


def test_numbers_are_rounded_as_long_as_they_stay_apart() -> None:
    assert round_apart(["0.0010001380927860737", "0.004"]) == ["0.001", "0.004"]
    assert round_apart(["0.0010001380927860737", "0.001", None]) == ["0.0010001", "0.001", None]
    assert round_apart(["123456", "adamw", "1e-30", "300 steps"]) == ["123456", "adamw", "1e-30", "300 steps"]
    assert round_apart(["0.1", "0.10"]) == ["0.1", "0.10"]


def test_small_numbers_have_small_units() -> None:
    assert [duration(s) for s in (0.0, 3.5e-7, 3.5e-4, 0.0123, 0.0994, 0.5)] == [
        "0.0 s", "0.35 µs", "350 µs", "12 ms", "99 ms", "0.5 s",
    ]  # fmt: skip
    assert [byte_size(n) for n in (0, 999, 1000, 1.5 * 2**20, 23.5 * 2**30, 2**41)] == [
        "0 B", "999 B", "0.977 KiB", "1.5 MiB", "23.5 GiB", "2 TiB",
    ]  # fmt: skip
    assert (memory_unit(2**31).name, memory_unit(3e6).name, memory_unit(10).name) == ("GiB", "MiB", "KiB")
    assert (time_unit(1.0).name, time_unit(0.02).name, time_unit(2e-5).name) == ("s", "ms", "µs")
    assert time_unit(2e-5).format(2e-5) == "20.00"
