"""The nodes of a study: its stages by identity, so that what several recipes share is one node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from pathways_lite.recipe import Recipe, Stage, stage_identity


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
        """For people: whose stage it is, and which."""
        more = f" +{len(self.users) - 1}" if len(self.users) > 1 else ""
        return f"{self.users[0]}{more} {self.stage.name}"


def nodes_of(recipes: Mapping[str, Recipe]) -> dict[str, Node]:
    """All stages of the recipes (resolved ones, by label), each once, parents before children."""
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


def chain_of(nodes: Mapping[str, Node], identity: str) -> list[Node]:
    """The node and all before it, the first stage first."""
    chain = [nodes[identity]]
    while (parent := chain[0].parent) is not None:
        chain.insert(0, nodes[parent])
    return chain


def shared(nodes: Iterable[Node]) -> list[Node]:
    """Those that more than one recipe contains."""
    return [node for node in nodes if len(node.users) > 1]
