"""Studies as data: a question, the recipes whose results answer it, and their stages as nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from pathways_lite.comparison.metric import Metric
from pathways_lite.errors import UserError, did_you_mean
from pathways_lite.paths import local_path
from pathways_lite.recipe import Frozen, Recipe, Stage, apply_overrides, stage_identity
from pathways_lite.recipe.load import load_from_python
from pathways_lite.recipe.stage import Name


class Claim(Frozen):
    """A part of a study's criterion: a measure of an arm is below a bound."""

    measure: str = Field(
        description="a number of `pathways-lite evaluate --infilling --json`, e.g. `infilling.as_trained.difference`"
    )
    below: float = Field(description="the bound")
    compared: bool = Field(
        default=False, description="the difference from the arm's baseline is below it, not the number"
    )


class Study(Frozen):
    """Named arms, each with a recipe per seed, and the baseline that the other arms are compared with.

    Recipes of two arms with the same seed are a pair: the effect of the seed on both cancels in their difference.
    """

    name: Name
    question: str = Field(description="the question that the study answers; shown at the top of its report")
    arms: dict[Name, tuple[Recipe, ...]] = Field(min_length=1)
    baseline: str = Field(description="the arm that the others are compared with")
    metric: Metric = Metric()
    target: float | None = Field(
        default=None, description="loss at which compute is compared; None: the one that both arms reach"
    )
    criterion: tuple[Claim, ...] = Field(
        default=(), description="claims about every arm but the baselines, decided before the study runs"
    )
    measures: tuple[str, ...] = Field(default=(), description="more measures to show, named like those of claims")
    baselines: dict[str, str] = Field(
        default={}, description="the baselines of single arms for measures and claims; the others': `baseline`"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.baseline not in self.arms:
            raise ValueError(f"baseline={self.baseline!r} is not an arm; the arms are {', '.join(self.arms)}")
        for arm, baseline in self.baselines.items():
            if missing := [name for name in (arm, baseline) if name not in self.arms]:
                raise ValueError(
                    f"baselines names {missing[0]!r}, which is no arm; the arms are {', '.join(self.arms)}"
                )
        for name, recipes in self.arms.items():
            if not recipes:
                raise ValueError(f"arm {name!r} has no recipe")
            if len({stage_identity(recipe, len(recipe.stages) - 1) for recipe in recipes}) < len(recipes):
                raise ValueError(f"arm {name!r} has the same recipe twice; recipes of an arm differ in their seed")
        return self

    @property
    def measured(self) -> tuple[str, ...]:
        """The measures that the report shows: those of claims first."""
        return tuple(dict.fromkeys([*(claim.measure for claim in self.criterion), *self.measures]))

    def baseline_of(self, arm: str) -> str:
        """Return the arm whose measures those of `arm` are compared with; its own name for a baseline."""
        return arm if arm in {self.baseline, *self.baselines.values()} else self.baselines.get(arm, self.baseline)

    def with_baseline(self, baseline: str) -> Study:
        """Return the study with another arm as baseline. Raises UserError if there is no such arm."""
        if baseline not in self.arms:
            raise UserError(f"{self.name} has no arm {baseline!r}.{did_you_mean(baseline, self.arms)}")
        return self.model_copy(update={"baseline": baseline})

    @property
    def recipes(self) -> dict[str, Recipe]:
        """Every recipe by its label, `ARM` or `ARM/SEED`."""
        return {
            arm if len(recipes) == 1 else f"{arm}/{recipe.seed}": recipe
            for arm, recipes in self.arms.items()
            for recipe in recipes
        }

    @property
    def arm_of(self) -> dict[str, str]:
        """The arm of every recipe, by the recipe's label."""
        labels = iter(self.recipes)
        return {next(labels): arm for arm, recipes in self.arms.items() for _ in recipes}


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Load the study returned by `study()` in the Python file at `path`; `overrides` are applied to every recipe.

    Raises UserError if the file is missing, has no `study()`, or describes something invalid.
    """
    study = load_from_python(local_path(path), Study, "configs/studies/palm_against_llama.py")
    arms = {name: [apply_overrides(recipe, overrides) for recipe in recipes] for name, recipes in study.arms.items()}
    return Study.model_validate({**dict(study), "arms": arms})


# ---- nodes: stages by identity, so that a stage shared by several recipes is one node ----


@dataclass(frozen=True)
class Node:
    """One stage of one or more recipes."""

    identity: str
    recipe: Recipe  # the chain up to this stage, of the first recipe that has it
    parent: str | None  # identity of the stage before
    users: tuple[str, ...]  # labels of the recipes that contain it
    is_last: frozenset[str] = frozenset()  # labels of the recipes that end with it

    @property
    def stage(self) -> Stage:
        return self.recipe.stages[-1]

    @property
    def label(self) -> str:
        """The name for people: the recipes and the stage."""
        more = f" +{len(self.users) - 1}" if len(self.users) > 1 else ""
        return f"{self.users[0]}{more} {self.stage.name}"


def build_nodes(recipes: Mapping[str, Recipe]) -> dict[str, Node]:
    """Build a node for every stage of the resolved recipes, given by label; parents come before children."""
    nodes: dict[str, Node] = {}
    for label, recipe in recipes.items():
        parent = None
        for index in range(len(recipe.stages)):
            chain = recipe.model_copy(update={"stages": recipe.stages[: index + 1]})
            identity = stage_identity(recipe, index)
            node = nodes.setdefault(identity, Node(identity, chain, parent, ()))
            last = node.is_last | {label} if index == len(recipe.stages) - 1 else node.is_last
            nodes[identity] = replace(node, users=(*node.users, label), is_last=last)
            parent = identity
    return nodes


def node_chain(nodes: Mapping[str, Node], identity: str) -> list[Node]:
    """Return the node and its ancestors, the first stage first."""
    chain = [nodes[identity]]
    while (parent := chain[0].parent) is not None:
        chain.insert(0, nodes[parent])
    return chain


def shared_nodes(nodes: Iterable[Node]) -> list[Node]:
    """Return the nodes that more than one recipe contains."""
    return [node for node in nodes if len(node.users) > 1]
