"""Building blocks of a recipe: the frozen base model, and amounts of training."""

from __future__ import annotations

import inspect
import operator
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from pathways_lite.errors import did_you_mean
from pathways_lite.suffixes import POWERS_OF_TEN

__all__ = [
    "Amount", "Budget", "BudgetField", "Epochs", "Flops", "Fraction", "FractionOf", "Frozen", "Patterns",
    "ResolvedBudget", "Steps", "Tokens",
]  # fmt: skip


class Frozen(BaseModel):
    """An immutable node of a recipe. Unknown fields are refused, so a misspelled one is never ignored.

    So are NaN and infinities, and true or false where a number is expected, which would count as 1 or 0.

    `not_identity` names the fields that cannot change what a stage computes (how often it saves, where its corpus is
    stored); the stage's identity leaves them out.

    `former_names` maps a field that was renamed to the name that it had before. The former name is still read, in
    keyword arguments, JSON, overrides and `model_copy`, and as an attribute; only the new one is written. A stage's
    identity is computed with the former name, so a rename does not separate a recipe from its checkpoints.

    `json_example` is shown where one of these is expected in JSON; "" where its fields say enough.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
    not_identity: ClassVar[frozenset[str]] = frozenset()
    former_names: ClassVar[Mapping[str, str]] = {}
    json_example: ClassVar[str] = ""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for name, former in cls.former_names.items():
            setattr(cls, former, property(operator.attrgetter(name)))

    @classmethod
    def current_name(cls, name: str) -> str:
        """Return the present name of a field that is called `name`, or was formerly."""
        return next((current for current, former in cls.former_names.items() if former == name), name)

    # Validators before others run in reverse order: former names are read first.

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_names(cls, fields: Any) -> Any:
        if isinstance(fields, dict):
            for name in fields:
                if name not in cls.model_fields:
                    message = f"{cls.__name__} has no field {name!r}.{field_hint(cls, str(name))}"
                    raise PydanticCustomError("unknown_field", "{message}", {"message": message, "name": str(name)})
        return fields

    @model_validator(mode="before")
    @classmethod
    def _refuse_booleans(cls, fields: Any) -> Any:
        if isinstance(fields, dict):
            for name, value in fields.items():
                field = cls.model_fields.get(cls.current_name(name)) if isinstance(name, str) else None
                if field is not None and not takes_boolean(field.annotation) and has_boolean(value):
                    raise ValueError(f"{name}={value!r}: {boolean_problem(field.annotation, value)}")
        return fields

    @model_validator(mode="before")
    @classmethod
    def _refuse_single_nodes(cls, fields: Any) -> Any:
        """Refuse one node where several are expected: pydantic would take its fields for the items."""
        for name, value in fields.items() if isinstance(fields, dict) else ():
            field = cls.model_fields.get(name) if isinstance(name, str) else None
            if field is None or not isinstance(value, Frozen):
                continue
            members = union_members(field.annotation)
            if any(typing.get_origin(member) is tuple for member in members) and not isinstance(
                value, tuple(member for member in members if is_node(member))
            ):
                written = getattr(value, "name", None) or f"{type(value).__name__}(...)"
                message = (
                    f"a tuple is expected, not one {type(value).__name__} alone: write ({written},), with a comma "
                    "before the parenthesis"
                )
                raise PydanticCustomError("single_node", "{message}", {"message": message, "name": name})
        return fields

    @model_validator(mode="before")
    @classmethod
    def _read_former_names(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        for name, former in cls.former_names.items():
            if name in fields and former in fields:
                raise ValueError(f"{former!r} is the former name of {name!r}; give {name!r} alone")
        return {cls.current_name(name): value for name, value in fields.items()}

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy with the fields in `update` replaced, and validate the copy as a new node (pydantic does not).

        Raises ValidationError for a name that is not a field's, and for values that a new node would refuse.
        """
        if not update:
            return super().model_copy(deep=deep)
        node = super().model_copy(deep=deep)
        # Of the fields that were set alone: whether a field was set is part of a recipe (`Stage.start`).
        kept = {name: getattr(node, name) for name in node.model_fields_set}
        return type(self).model_validate(kept | {self.current_name(name): value for name, value in update.items()})

    def copy_unchecked(self, **changes: Any) -> Self:
        """Copy with fields replaced, without validation: for parts of recipes that are not recipes by themselves."""
        return super().model_copy(update=changes)


def has_boolean(value: Any) -> bool:
    """Return whether a value is a boolean, or a list with one; dictionaries are other nodes' or pairs of them."""
    if isinstance(value, tuple | list):
        return any(map(has_boolean, value))
    return isinstance(value, bool)


def takes_boolean(annotation: Any) -> bool:
    """Return whether a field's value may be true or false."""
    return annotation is bool or bool in union_members(annotation)


def boolean_problem(annotation: Any, value: Any) -> str:
    """Say what to write instead of true or false where a field takes neither."""
    nodes = [member for member in union_members(annotation) if is_node(member)]
    if len(nodes) != 1 or not isinstance(value, bool):
        return "a number or a name is expected here, not true or false"
    if not value:
        return f"write none (in Python None) for no {nodes[0].__name__}"
    required = [name for name, field in nodes[0].model_fields.items() if field.is_required()]
    if required:
        return f"{nodes[0].__name__} needs {', '.join(required)}"
    return f"write {{}} (in Python {nodes[0].__name__}()) for the defaults of {nodes[0].__name__}"


class Steps(Frozen):
    """A number of optimizer steps."""

    kind: Literal["steps"] = "steps"
    n: int = Field(ge=0, description="steps")


class Tokens(Frozen):
    """A number of training tokens (positions of the batch, whether or not they carry loss)."""

    kind: Literal["tokens"] = "tokens"
    n: int = Field(ge=0, description="tokens")


class Flops(Frozen):
    """A number of model FLOPs, counted as in PaLM appendix B (forward and backward, no recomputation)."""

    kind: Literal["flops"] = "flops"
    n: float = Field(ge=0, description="FLOPs")


class Fraction(Frozen):
    """A fraction of the stage's budget, measured in the budget's own unit."""

    kind: Literal["fraction"] = "fraction"
    n: float = Field(ge=0, le=1, description="of the budget")


class Epochs(Frozen):
    """A number of passes over the corpus (with RS2, over one round), as tokens when the recipe is resolved."""

    kind: Literal["epochs"] = "epochs"
    n: float = Field(gt=0, description="passes over all sequences, of all domains together")


class FractionOf(Frozen):
    """A fraction of another stage's budget, in that budget's unit when the recipe is resolved."""

    kind: Literal["fraction_of"] = "fraction_of"
    n: float = Field(gt=0, description="of that stage's budget; may exceed 1")
    stage: str = Field(description="name of the other stage")


_UNITS = {"step": "steps", "token": "tokens", "flop": "flops", "epoch": "epochs"}


_AMOUNT = re.compile(
    r"\s*([0-9][0-9_,]*\.?[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*(?:([kKMGBTPE])\s+)?(%|[A-Za-z]+)"
    r"\s*(?:(?<=%)\s*of\s+(\S+)\s*|)"
)
_MOST = 2.0**62  # steps or tokens
_PLAIN_EXAMPLES = "'300 steps', '60k steps', '2e6 tokens', '1e15 flops'"
_EXAMPLES = f"{_PLAIN_EXAMPLES}, or a share such as '5 %'"
_BUDGET_EXAMPLES = f"{_PLAIN_EXAMPLES}, '2 epochs' or '10 % of STAGE'"


def parse_amount(value: Any, examples: str = _EXAMPLES) -> Any:
    """Accept `"300 steps"`, `"60k steps"`, `"2e6 tokens"`, `"1e15 flops"` and `"5 %"` wherever an amount is expected.

    k, M, G or B, T, P and E are powers of a thousand. A budget may also be `"2 epochs"` or `"10 % of base"`, of another
    stage. `examples`: for errors, of what may be written.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        example = f"'{value} steps'; an amount is {examples}" if value > 0 and value % 1 == 0 else examples
        raise ValueError(f"{value} of what? Write e.g. {example}")
    if not isinstance(value, str):
        return value
    match = _AMOUNT.fullmatch(value)
    if match is None and _AMOUNT.fullmatch(value.strip().removeprefix("-")):
        raise ValueError(f"{value!r} is negative; write e.g. {examples}")
    if match is None:
        raise ValueError(f"{value!r} is not an amount; write e.g. {examples}")
    digits, prefix, unit, stage = match[1].replace(",", "").replace("_", ""), match[2], match[3], match[4]
    number = float(
        Decimal(digits).scaleb(POWERS_OF_TEN[prefix] if prefix else 0)
    )  # in decimals, so that 2.3M are 2,300,000
    if unit == "%":
        part = {"kind": "fraction", "n": number / 100}
        return part if stage is None else {"kind": "fraction_of", "n": number / 100, "stage": stage}
    kind = _UNITS.get(unit.lower().removesuffix("s"))
    if kind is None:
        raise ValueError(f"unknown unit {unit!r} in {value!r}; write e.g. {examples}")
    if kind in ("steps", "tokens") and (number % 1 or number > _MOST):
        problem = "is no whole number" if number % 1 else f"is above {_MOST:.1e}, the most that can be counted"
        raise ValueError(f"{value!r} {problem}; write e.g. {examples}")
    return {"kind": kind, "n": number}


def _parse_point(value: Any) -> Any:
    amount = parse_amount(value)
    if isinstance(value, str) and amount["kind"] in ("epochs", "fraction_of"):
        raise ValueError(f"{value!r} can be a budget only; write here e.g. {_EXAMPLES}")
    return amount


def _split_names(value: Any) -> Any:
    """Accept `"embedding, layers.0-3"` wherever several names are expected."""
    return tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else value


Patterns = Annotated[tuple[str, ...], BeforeValidator(_split_names), Field(min_length=1)]
"""Patterns of names of parameters (`models.trainable`)."""


def _parse_budget(value: Any) -> Any:
    amount = parse_amount(value, _BUDGET_EXAMPLES)
    if isinstance(amount, dict) and amount.get("kind") == "fraction" and isinstance(value, str):
        raise ValueError(
            f"{value!r} of what? Name another stage, as in '{value.strip()} of STAGE', or write e.g. {_BUDGET_EXAMPLES}"
        )
    return amount


ResolvedBudget = Steps | Tokens | Flops
"""The amount of training in a stage of a resolved recipe."""

Budget = Annotated[
    Steps | Tokens | Flops | Epochs | FractionOf, Field(discriminator="kind"), BeforeValidator(_parse_budget)
]
"""The amount of training in a stage."""

if TYPE_CHECKING:

    class BudgetField:
        """What type checkers know of a field `Budget`: text may be given for it, and it is an amount."""

        def __get__(self, node: object, cls: type | None = None) -> Budget: ...
        def __set__(self, node: object, value: Budget | str) -> None: ...

else:
    BudgetField = Budget

Amount = Annotated[Steps | Tokens | Flops | Fraction, Field(discriminator="kind"), BeforeValidator(_parse_point)]
"""A point in time or a duration on a stage's clock."""


# ---- what annotations and names of fields say, for overrides and the reference ----


def union_members(annotation: Any) -> list[Any]:
    """Return the alternatives of an annotation, without `Annotated`, and without the bases of plugins."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return union_members(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [member for argument in typing.get_args(annotation) for member in union_members(argument)]
    return [] if inspect.isabstract(annotation) else [annotation]


def is_node(annotation: Any) -> bool:
    """Return whether an annotation is a class of recipes."""
    return isinstance(annotation, type) and issubclass(annotation, Frozen)


def is_amount(annotation: Any) -> bool:
    """Return whether an annotation is of amounts of training."""
    return Steps in union_members(annotation)


def variants_of(annotation: Any, *, built_in: bool = False) -> dict[str, type[Frozen]]:
    """Return the variants of a discriminated union by `kind`: `{"adamw": AdamW, ...}`.

    Those of plugins too, which are imported for that, unless `built_in`.
    """
    nodes = [member for member in union_members(annotation) if is_node(member)]
    variants = {node.model_fields["kind"].default: node for node in nodes if "kind" in node.model_fields}
    more = _open_unions.get(frozenset(nodes))
    return variants if more is None or built_in else variants | more()


_open_unions: dict[frozenset[type[Frozen]], Callable[[], dict[str, type[Frozen]]]] = {}


def open_union(annotation: Any, more: Callable[[], dict[str, type[Frozen]]]) -> None:
    """Let `variants_of` add classes to a union, by `kind`: those of plugins."""
    _open_unions[frozenset(member for member in union_members(annotation) if is_node(member))] = more


def map_nodes[T: Frozen](node: T, change: Callable[[Frozen], Frozen]) -> T:
    """Return a recipe, or a part of one, with `change` applied to every node, the innermost first."""
    changed: dict[str, Any] = {}
    for name in type(node).model_fields:
        value = getattr(node, name)
        new: Any = value
        if isinstance(value, Frozen):
            new = map_nodes(value, change)
        elif isinstance(value, tuple) and any(isinstance(item, Frozen) for item in value):
            new = tuple(map_nodes(item, change) if isinstance(item, Frozen) else item for item in value)
            new = value if all(a is b for a, b in zip(new, value, strict=True)) else new
        if new is not value:
            changed[name] = new
    result = change(node.copy_unchecked(**changed) if changed else node)
    assert isinstance(result, type(node))
    return result


_OTHER_NAMES = {
    "lr": "learning_rate rate", "max_lr": "learning_rate", "peak_lr": "learning_rate", "wd": "weight_decay",
    "beta1": "b1", "beta2": "b2", "eps": "epsilon", "warmup_steps": "warmup", "lr_scheduler": "schedule",
    "scheduler": "schedule", "grad_clip": "clip_norm", "max_grad_norm": "clip_norm", "clip": "clip_norm",
    "steps": "budget", "max_steps": "budget", "num_steps": "budget", "epochs": "budget", "n_steps": "budget",
    "num_epochs": "budget", "tokens": "budget", "bs": "batch_size", "batch": "batch_size",
    "micro_batch_size": "microbatch", "microbatch_size": "microbatch", "dataset": "data", "loss": "objective",
    "hidden_size": "d_model", "width": "d_model", "dim": "d_model", "depth": "n_layers", "num_layers": "n_layers",
    "num_heads": "n_heads", "heads": "n_heads", "layers": "n_layers", "num_kv_heads": "n_kv_heads",
    "intermediate_size": "d_ff", "vocabulary": "vocab_size", "context_length": "seq_len", "seq_length": "seq_len",
    "max_seq_len": "seq_len", "sequence_length": "seq_len", "block_size": "seq_len", "dir": "corpus",
    "save_every": "saving", "eval_every": "evaluation", "checkpoint_every": "saving", "init": "start",
}  # fmt: skip
"""What fields are called elsewhere, and here (the first that there is)."""


def other_names(name: str) -> list[str]:
    """Return what may be meant by a name that other programs give a field."""
    return _OTHER_NAMES.get(name.lower(), "").split()


def meant_field(name: str, fields: Iterable[str]) -> str | None:
    """Return the field that other programs call `name`; None where it is no such name."""
    return next((field for field in other_names(name) if field in fields), None)


def field_hint(cls: type[Frozen], name: str) -> str:
    """Return a hint for a name that is no field of a class: a similar one, or one further down that is called so."""
    known = [field for field in cls.model_fields if field != "kind"]
    wanted = [name, *other_names(name)]
    if not any(field in known for field in wanted):
        for field in wanted:
            if path := _path_below(cls, field):
                return did_you_mean(name, known, meant=path)
    return did_you_mean(name, known, meant=meant_field(name, known))


def _path_below(cls: type[Frozen], name: str) -> str | None:
    """Return the path of the field `name` in the classes below `cls`, the shortest one; None if there is none."""
    waiting, seen = [("", cls)], {cls}
    for prefix, owner in waiting:
        if prefix and name in owner.model_fields and name != "kind":
            return f"{prefix}{name}"
        for field_name, field in owner.model_fields.items():
            for member in union_members(field.annotation):
                if is_node(member) and member not in seen:
                    seen.add(member)
                    waiting.append((f"{prefix}{field_name}.", member))
    return None
