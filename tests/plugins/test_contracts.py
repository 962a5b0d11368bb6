"""The demo package keeps the contracts that it inherits, as a package of a user would; and contracts find mistakes."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, get_args

import jax.numpy as jnp
import optax
import pytest

from helpers.plugin_installation import PACKAGE
from pathways_lite import testing
from pathways_lite.plugins import Group


@pytest.fixture(autouse=True)
def plugin(request: pytest.FixtureRequest, installed: Path) -> None:
    """Give the class its plugin, which can be imported only while the package is installed."""
    make = getattr(request.cls, "make", None)
    if make is not None:
        request.cls.plugin = make()


class TestSignMomentum(testing.OptimizerContract):
    @staticmethod
    def make() -> Any:
        from demo_plugin.training import SignMomentum

        return SignMomentum(momentum=0.5)


class TestStairs(testing.ScheduleContract):
    @staticmethod
    def make() -> Any:
        from demo_plugin.training import Stairs

        return Stairs(steps=3)


class TestHarderHalf(testing.RuleContract):
    @staticmethod
    def make() -> Any:
        from demo_plugin.training import HarderHalf

        return HarderHalf()


class TestRepeat(testing.OperatorContract):
    @staticmethod
    def make() -> Any:
        from demo_plugin.training import Repeat

        return Repeat()


class TestLines(testing.TrackerContract):
    def open(self, stage_dir: Path, *, run: str, step: int) -> Any:
        from demo_plugin.others import Lines

        return Lines(stage_dir, run=run, step=step)


class TestNumbers(testing.SourceContract):
    @staticmethod
    def make() -> Any:
        from demo_plugin.others import Numbers

        return Numbers("demo:120")


class TestRoot(testing.LawContract):
    values: ClassVar = {"a": 2.0}
    ranges: ClassVar = {"x": (10.0, 1e4)}

    @staticmethod
    def make() -> Any:
        from demo_plugin.others import ROOT

        return ROOT


class TestDouble(testing.FamilyContract):
    @staticmethod
    def make() -> Any:
        from demo_plugin.others import DOUBLE

        return DOUBLE


# ---- a contract that nothing breaks says nothing ----


@pytest.fixture
def broken(installed: Path) -> Iterator[Callable[..., Any]]:
    """A function that makes a contract of a demo class with one method replaced."""
    from demo_plugin import training

    def make(contract: type, name: str, **methods: Any) -> Any:
        cls = getattr(training, name)
        for method, function in methods.items():
            patch.setattr(cls, method, function)
        contract = type("Broken", (contract,), {"plugin": cls()})
        return contract()

    with pytest.MonkeyPatch.context() as patch:
        yield make


def test_contracts_find_mistakes(broken: Callable[..., Any]) -> None:
    by_count = optax.scale_by_schedule(lambda count: 1 / (1 + count))
    own_clock = broken(testing.OptimizerContract, "SignMomentum", direction=lambda self, axes: by_count)
    own_clock.test_resumed_is_uninterrupted_bit_for_bit()
    uphill = broken(testing.OptimizerContract, "SignMomentum", direction=lambda self, axes: optax.scale(-1.0))
    with pytest.raises(AssertionError):
        uphill.test_it_goes_downhill()
    history = optax.GradientTransformation(
        lambda params: jnp.zeros(7), lambda grads, state, params=None: (grads, state)
    )
    odd = broken(testing.OptimizerContract, "SignMomentum", direction=lambda self, axes: history)
    with pytest.raises(AssertionError):
        odd.test_the_state_is_like_the_parameters()
    flat = broken(testing.ScheduleContract, "Stairs", shape=lambda self, fraction: 2.0 - fraction)
    with pytest.raises(AssertionError):
        flat.test_it_is_between_0_and_1_traced_or_not()
    negative = broken(testing.RuleContract, "HarderHalf", weights=lambda self, losses, sizes: losses - jnp.mean(losses))
    with pytest.raises(AssertionError):
        negative.test_weights_have_a_mean_of_1_and_are_not_negative()
    highest = broken(
        testing.RuleContract, "HarderHalf", weights=lambda self, losses, sizes: losses / jnp.max(losses) > 0.5
    )
    with pytest.raises(AssertionError):
        highest.test_samples_that_do_not_exist_do_not_count()


def test_the_page_shows_the_package_and_names_every_contract() -> None:
    page = (Path(__file__).parents[2] / "docs" / "extending.md").read_text().partition("## Plugins")[2]
    package = "".join(path.read_text() for path in sorted(PACKAGE.rglob("*")) if path.suffix in (".py", ".toml"))
    blocks = re.findall(r"```(\S+).*\n((?:.*\n)*?)```", page)
    assert [kind for kind, _ in blocks] == ["toml", "python", "python"]
    for _, code in blocks[:2]:
        assert code in package
    assert blocks[2][1] in Path(__file__).read_text()
    assert set(re.findall(r"`(\w+Contract)`", page)) == set(testing.__all__)
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == set(get_args(Group))
