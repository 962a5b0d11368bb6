"""The progress display of a long run: live on a terminal, plain lines every few seconds elsewhere."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pathways_lite.console import Console, escape_controls
from pathways_lite.tracking.formatting import bits_per_byte, duration, si

_MAX_DOMAINS = 20  # shown after an evaluation


@dataclass(frozen=True)
class Status:
    """Everything that the display shows at one moment. Times are those of `Progress.now`, in seconds."""

    step: int = 0
    mean_loss: float = math.nan  # over the `loss_steps` steps since the log row before
    loss_steps: int = 0
    tokens_per_second: float = math.nan
    flops_per_second: float = math.nan
    remaining: float = math.nan  # seconds
    evaluation: str = ""
    saved_step: int | None = None
    saved_at: float = math.nan
    phase: str = "starting"  # "training" from the first step on


class Progress:
    """The progress display of a stage. A context manager; nothing is drawn outside it.

    Args:
        title: what is running, e.g. "demo/base".
        total_steps, total_tokens: of the stage; the time left follows from tokens, because batch sizes may ramp up.
        step: the restored one.
        peak_flops: the machine's FLOP/s, to show the share of it; None if unknown.
        console: where to draw; standard error by default, to leave standard output to the caller.
        interval: seconds between plain lines if the console is not a terminal.
    """

    def __init__(
        self,
        title: str,
        *,
        total_steps: int,
        total_tokens: int,
        step: int = 0,
        peak_flops: float | None = None,
        console: Console | None = None,
        interval: float = 5.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title = title
        self.total_steps = total_steps
        self.total_tokens = total_tokens
        self.peak_flops = peak_flops
        self.console = console or Console(stderr=True)
        self.interval = interval
        self.now = now
        self.status = Status(step=step)
        self._first_update: tuple[float, int] | None = None  # time and tokens of the first update
        self._printed_at = -math.inf
        self._inside = 0.0  # seconds of the phases inside the one that is shown
        terminal = self.console.is_terminal and not self.console.is_dumb_terminal
        self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=4) if terminal else None

    def update(
        self,
        step: int,
        *,
        tokens: int,
        mean_loss: float,
        loss_steps: int,
        tokens_per_second: float,
        flops_per_second: float,
    ) -> None:
        """Show the state after `step` steps and `tokens` tokens of the stage; rates are those of training alone.

        `mean_loss` is that of the log row, the mean over the last `loss_steps` steps.
        """
        old, now = self.status, self.now()
        if self._first_update is None:
            self._first_update = (now, tokens)
        is_finite = math.isfinite(mean_loss)  # otherwise all steps since the last row were dropped
        self.status = replace(
            old,
            step=step,
            mean_loss=mean_loss if is_finite else old.mean_loss,
            loss_steps=loss_steps if is_finite else old.loss_steps,
            tokens_per_second=tokens_per_second,
            flops_per_second=flops_per_second,
            remaining=self._remaining(tokens, tokens_per_second, now),
            phase="training" if old.phase == "starting" else old.phase,
        )
        if self._live is None and (now - self._printed_at >= self.interval or step >= self.total_steps):
            self._printed_at = now
            self._print_line(self.status_line())

    def show_evaluation(self, step: int, domains: Mapping[str, Mapping[str, Any]]) -> None:
        """Show the bits per byte of each held-out domain after `step` steps, which need not be a logged step."""
        if not domains:
            return
        shown = list(domains.items())[:_MAX_DOMAINS]
        more = f" and {len(domains) - len(shown)} more domains" if len(domains) > len(shown) else ""
        result = ", ".join(f"{name} {bits_per_byte(result, 3)}" for name, result in shown) + f"{more} bits per byte"
        self.status = replace(self.status, evaluation=result)
        if self._live is None:
            self._print_line(f"{self.title}: step {step:,}: held out: {result}")

    def begin_training(self) -> None:
        """Show that steps are taken from now on, as soon as no other phase is shown."""
        self.status = replace(self.status, phase="training")

    def show_save(self, step: int) -> None:
        """Show that the checkpoint of `step` is complete."""
        self.status = replace(self.status, saved_step=step, saved_at=self.now())

    def print_note(self, message: str) -> None:
        """Print a line that stays, above the live display."""
        self.console.print(Text(message), soft_wrap=True)

    @contextmanager
    def show_phase(self, name: str) -> Iterator[None]:
        """Show what is being done instead of training, e.g. "compiling the train step".

        In plain lines, phases before the first step are always printed; later ones only once they have taken long. The
        time of a phase inside another is its own, not also that of the other.
        """
        outer, start, first = self.status.phase, self.now(), self._first_update is None
        outer_inside, self._inside = self._inside, 0.0
        self.status = replace(self.status, phase=name)
        announcement = threading.Timer(self.interval, self._announce, [name])
        announcement.daemon = True
        if self._live is None and first:
            self._announce(name)
        elif self._live is None:
            announcement.start()
        try:
            yield
        finally:
            announcement.cancel()
            self.status = replace(self.status, phase=outer)
            total = self.now() - start
            took, self._inside = total - self._inside, outer_inside + total
            if self._live is None and (first or took >= self.interval):
                self._print_line(f"{self.title}: {name}: {duration(took)}")

    def _announce(self, name: str) -> None:
        """Say that a phase has begun, unless another one inside it is going on, or it is over."""
        if self.status.phase == name:
            self._print_line(f"{self.title}: {name} ...")

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def status_line(self) -> str:
        """Return the status as one plain line."""
        status = self.status
        parts = [f"step {status.step:,}/{self.total_steps:,}", self._loss(), *self._rates()]
        if math.isfinite(status.remaining):
            parts.append(f"{duration(status.remaining)} left")
        return f"{self.title}: " + ", ".join(parts)

    def _remaining(self, tokens: int, tokens_per_second: float, now: float) -> float:
        """Estimate the seconds left at the pace since the first update, evaluations and saves included."""
        assert self._first_update is not None
        start, before = self._first_update
        pace = (tokens - before) / (now - start) if now > start and tokens > before else tokens_per_second
        return max(0, self.total_tokens - tokens) / pace if pace > 0 else math.nan

    def _loss(self) -> str:
        """Return the loss, and which one it is: the mean since the log row before."""
        steps = self.status.loss_steps
        return f"loss {self.status.mean_loss:.4f} (mean of {steps:,} step{'s' * (steps != 1)})"

    def _rates(self) -> list[str]:
        status = self.status
        rates = []
        if math.isfinite(status.tokens_per_second):
            rates.append(f"{status.tokens_per_second:,.0f} tokens/s")
        if math.isfinite(status.flops_per_second):
            rates.append(si(status.flops_per_second, "FLOP/s"))
            if self.peak_flops:
                rates.append(f"{status.flops_per_second / self.peak_flops:.0%} of peak")
        return rates

    def _print_line(self, line: str) -> None:
        # One write per line: lines of other processes cannot tear it. No wrapping: a file has no width.
        try:
            self.console.file.write(escape_controls(line, one_line=True) + "\n")
            self.console.file.flush()
        except BrokenPipeError:
            self.console.on_broken_pipe()

    def _render(self) -> Group:
        status = self.status
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(no_wrap=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True, justify="right")
        left = f"{duration(status.remaining)} left" if math.isfinite(status.remaining) else ""
        bar.add_row(
            Text(self.title, style="bold"),
            ProgressBar(total=self.total_steps, completed=min(status.step, self.total_steps)),
            Text(f"{status.step:,}/{self.total_steps:,}  {left}"),
        )
        numbers = "  ".join([*([self._loss()] if math.isfinite(status.mean_loss) else []), *self._rates()])
        held_out = f"held out: {status.evaluation}" if status.evaluation else ""
        lines = [Text(line, no_wrap=True, overflow="ellipsis") for line in (numbers, held_out) if line]
        phase = Text(status.phase, style="dim" if status.phase == "training" else "yellow", no_wrap=True)
        return Group(bar, *lines, phase.append(self._checkpoint_age(), style="dim"))

    def _checkpoint_age(self) -> str:
        status = self.status
        if status.saved_step is None:
            return ""
        return f"  checkpoint {status.saved_step:,}, {duration(self.now() - status.saved_at)} ago"
