"""Recipe classes of other packages: their base, and unions that are open to them.

A recipe holds an instance of the plugin's own class; its JSON has the class's `kind`, by which it is read back. When a
recipe is resolved the field `plugin` gets the package's name, version and digest of its source, and so the stage's
identity has them. A recipe whose plugin is not installed is read all the same, but does not train.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from abc import ABC
from typing import Annotated, Any, ClassVar, Literal, NoReturn, Union

from pydantic import Field, GetCoreSchemaHandler, SerializerFunctionWrapHandler, ValidatorFunctionWrapHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from pathways_lite.errors import UserError, did_you_mean
from pathways_lite.plugins import PREFIX, Group, Plugin, plugins
from pathways_lite.recipe.base import Frozen, map_nodes, open_union, union_members

__all__ = ["OpenUnion", "PluginClass", "with_plugins_recorded"]


class PluginClass(Frozen, ABC):
    """A node of a recipe that another package defines, and that also says how it is computed.

    Its `kind` is the name of its entry point.
    """

    plugin_group: ClassVar[Group]

    kind: str
    plugin: str | None = Field(
        default=None, description="package, version and digest of its source; filled in when the recipe is resolved"
    )


class OpenUnion:
    """Discriminates a union of recipe classes by `kind`, of which one, without a kind, is the base of plugins."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        members = union_members(source)
        (base,) = set(typing.get_args(source)) - set(members)
        built_in = frozenset(member.model_fields["kind"].default for member in members)
        open_union(source, lambda: _plugin_classes(base, built_in))

        def validate(value: Any, inner: ValidatorFunctionWrapHandler) -> Any:
            if isinstance(value, base):
                return _require_installed(value)
            kind = value.get("kind") if isinstance(value, dict) else None
            if not isinstance(kind, str) or kind in built_in:
                return inner(value)
            if kind in (offered := plugins(base.plugin_group)):
                return _load_class(base, offered[kind]).model_validate(value)
            if isinstance(recorded := value.get("plugin"), str):
                return _missing_class(base, kind, recorded, tuple(value)).model_validate(value)
            if offered:
                message = f"there is no {kind!r}.{did_you_mean(kind, [*built_in, *offered])}"
                raise PydanticCustomError("unknown_kind", "{message}", {"message": message})
            return inner(value)

        def serialize(value: Any, inner: SerializerFunctionWrapHandler, info: Any) -> Any:
            return value.model_dump(mode=info.mode) if isinstance(value, PluginClass) else inner(value)

        return core_schema.no_info_wrap_validator_function(
            validate,
            handler.generate_schema(Annotated[Union[*members], Field(discriminator="kind")]),
            serialization=core_schema.wrap_serializer_function_ser_schema(serialize, info_arg=True),
        )


def with_plugins_recorded[T: Frozen](node: T) -> T:
    """Return a recipe in which every plugin's class says which package, version and source it is of.

    Raises UserError for a plugin that is not installed.
    """

    def record(part: Frozen) -> Frozen:
        if not isinstance(part, PluginClass):
            return part
        if isinstance(part, _Missing):
            part.raise_missing()
        installed = plugins(part.plugin_group)[part.kind]
        return part.copy_unchecked(plugin=installed.source)

    return map_nodes(node, record)


def _plugin_classes(base: type[PluginClass], built_in: frozenset[str]) -> dict[str, type[Frozen]]:
    """Return the classes of the installed plugins by kind, without those that cannot be imported."""
    classes: dict[str, type[Frozen]] = {}
    for kind, plugin in plugins(base.plugin_group).items():
        if kind in built_in:
            continue
        try:
            classes[kind] = _load_class(base, plugin)
        except UserError:  # which is said where it is named
            continue
    return classes


def _load_class(base: type[PluginClass], plugin: Plugin) -> type[PluginClass]:
    cls = plugin.load()
    if not (isinstance(cls, type) and issubclass(cls, base)) or inspect.isabstract(cls):
        raise UserError(
            f"{plugin.name!r} of {plugin.package} ({PREFIX}{plugin.group}) is no {base.__name__} with all its methods"
        )
    if cls.model_fields["kind"].default != plugin.name:
        raise UserError(
            f"{cls.__name__} of {plugin.package} is offered as {plugin.name!r}; give it the field "
            f"kind: Literal[{plugin.name!r}] = {plugin.name!r}"
        )
    return cls


def _require_installed(value: PluginClass) -> PluginClass:
    """Return a plugin's instance. Raises ValueError for a class without entry point: its JSON would not be read."""
    if isinstance(value, _Missing):
        return value
    cls = type(value)
    installed = plugins(value.plugin_group).get(value.kind)
    if installed is None or installed.load() is not cls:
        raise ValueError(
            f"{cls.__name__} is no installed plugin: its package needs the entry point "
            f"{value.kind} = '{cls.__module__}:{cls.__name__}' in the group {PREFIX}{value.plugin_group}"
        )
    return value


# ---- plugins that are not installed ----


class _Missing:
    """Marks the class that stands for one of a plugin that is not installed."""

    missing: ClassVar[str]

    def raise_missing(self, *_: Any) -> NoReturn:
        """Raise UserError with what to install."""
        raise UserError(self.missing)


@functools.cache
def _missing_class(base: type[PluginClass], kind: str, recorded: str, fields: tuple[str, ...]) -> type[PluginClass]:
    """Return a class with these fields, whose methods say what to install."""
    package = " ".join(recorded.split()[:2])
    others = [name for name in fields if name not in base.model_fields]
    namespace: dict[str, Any] = {
        "__module__": __name__,
        "__annotations__": {"kind": Literal[kind], **dict.fromkeys(others, Any), "missing": ClassVar[str]},
        "kind": kind,
        "missing": f"{kind!r} is of the plugin {package}, which is not installed; install it to train with it",
        **dict.fromkeys(getattr(base, "__abstractmethods__", ()), _Missing.raise_missing),
    }
    name = f"Missing{kind.title().replace('_', '')}"
    return types.new_class(name, (_Missing, base), {}, lambda body: body.update(namespace))
