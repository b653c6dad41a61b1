"""What configuration files may say, checked in one pass: every fault with its key path, its line and what was expected.

Files are declared as tables (`planner.studies.study_file`, `planner.catalogue.entries`). msgspec holds each value
against its type and limits; the walk from table to table is here, because msgspec alone ends at the first fault.
"""

from __future__ import annotations

import functools
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, TypeVar

import msgspec

from planner.base.errors import FaultsError, InputError
from planner.base.record import dataclass_transform
from planner.base.text import closest
from planner.config.document import Document, KeyPath
from planner.config.faults import MAX_FAULTS, fault_line, shown

Limits: TypeAlias = msgspec.Meta
"""What a value of a declared type is held to, as in `Annotated[int, Limits(ge=1)]`."""

_PARSE = "parse"
_IN_FILES = "x-hotsplit-in-files"
_ONE_OR_MORE = "x-hotsplit-one-or-more"
_FINITE = "a number that is finite"
_TYPES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_KINDS: dict[Any, str] = {**_TYPES, list: "a list", tuple: "a list", dict: "a mapping"}
_BOUNDS = {
    "gt": "more than {}",
    "ge": "{} or more",
    "lt": "less than {}",
    "le": "{} or less",
    "min_length": "at least {} characters",
    "max_length": "at most {} characters",
}


# Keys that may also be written as in American English.
_AMERICAN = {"quantisations": "quantizations", "catalogue": "catalog"}
_BRITISH = {american: british for british, american in _AMERICAN.items()}


class ExpectedError(ValueError):
    """Says what was expected; what was found and where is added by `check`."""

    def __init__(self, expected: str) -> None:
        super().__init__(expected)
        self.expected = expected


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mapping of a configuration file: unknown keys are faults, values keep their types, nothing changes later.

    What several keys must agree on is checked in `__post_init__`, which raises `ExpectedError`.
    """

    @classmethod
    def from_text(cls, text: str) -> dict[str, Any] | None:
        """Returns the mapping that a text stands for in its place; None where a mapping must be written."""
        return None


class OpenTable(Table, forbid_unknown_fields=False):
    """A mapping that other programs may add keys to: those that are not declared are ignored."""


def written_as(parse: Callable[[Any], Any], schema: dict[str, Any]) -> Limits:
    """Returns the mark of a type whose values stand in files in another form, as in `Annotated[int, written_as(...)]`.

    Args:
        parse: makes a value from what stands in the file, or raises `ExpectedError`.
        schema: JSON Schema of what may stand in the file.
    """
    return Limits(extra={_PARSE: parse}, extra_json_schema={_IN_FILES: schema})


def about(text: str) -> Limits:
    """Returns the description of a field, for editors and for whoever leaves a required one away."""
    return Limits(description=text)


T = TypeVar("T", bound=Table)
_Item = TypeVar("_Item")

OneOrMore = Annotated[tuple[_Item, ...], Limits(min_length=1, extra_json_schema={_ONE_OR_MORE: True})]
"""A list that, of one item, can be written without brackets."""


def check(schema: type[T], document: Document) -> T:
    """Returns the content of a file as `schema` describes it.

    Raises:
        FaultsError: one line for each fault: file, key path, what was found, what was expected, line.
    """
    if not isinstance(document.value, dict):
        found = "nothing" if document.value is None else shown(document.value)
        names = ", ".join(schema.__struct_fields__)
        raise InputError(f"{document.name}: found {found}, expected a mapping with {names}")
    reader = _Reader()
    content: T = reader.table(schema, document.value, ())
    if reader.faults:
        lines = [fault_line(document, *fault) for fault in reader.faults[:MAX_FAULTS]]
        if len(reader.faults) > MAX_FAULTS:
            lines.append(f"{document.name}: and {len(reader.faults) - MAX_FAULTS} more faults")
        raise FaultsError(lines)
    return content


def key_in(mapping: Mapping[str, Any], name: str) -> str:
    """Returns the key under which a mapping of a file has what `name` names: that, or its American spelling."""
    american = _AMERICAN.get(name, name)
    return american if american in mapping and name not in mapping else name


def parse_or_none(schema: type[T], value: object) -> T | None:
    """Returns a part of a file as `schema` describes it, None where it has a fault (`check` tells which)."""
    reader = _Reader()
    content: T = reader.table(schema, value, ())
    return None if reader.faults else content


def given_values(table: Table) -> dict[str, Any]:
    """Returns the keys of a table that differ from their defaults, with their values."""
    silent = {
        field.name: field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        for field in msgspec.structs.fields(type(table))
    }
    return {name: value for name, value in msgspec.structs.asdict(table).items() if value != silent[name]}


def as_mapping(table: Table) -> dict[str, Any]:
    """Returns what a table says as JSON values, its tables likewise; keys that are None are left out."""

    def plain(value: Any) -> Any:
        if isinstance(value, Table):
            return as_mapping(value)
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, tuple) else value

    return {name: plain(value) for name, value in msgspec.structs.asdict(table).items() if value is not None}


def json_schema_of(schema: type[Table]) -> dict[str, Any]:
    """Returns the JSON Schema of a table, with the schemas of all tables in it under `$defs`."""
    _, definitions = msgspec.json.schema_components([schema], ref_template="#/$defs/{name}")
    found = {name: _with_spellings(_as_in_files(part)) for name, part in definitions.items()}
    for table in _tables_in(schema):
        if "from_text" in vars(table):
            found[table.__name__] = {"anyOf": [{"type": "string"}, found[table.__name__]]}
    return {**found.pop(schema.__name__), "$defs": found}


def _with_spellings(part: dict[str, Any]) -> dict[str, Any]:
    """Returns the JSON Schema of a table with the American spelling of its keys beside the other."""
    properties = part.get("properties", {})
    spelled = {_AMERICAN[name]: properties[name] for name in properties if name in _AMERICAN}
    return {**part, "properties": {**properties, **spelled}} if spelled else part


def _tables_in(schema: type[Table]) -> set[type[Table]]:
    """Returns a table's class and those of all tables in it."""
    found = {schema}
    forms = [field.form for field in _fields(schema)]
    while forms:
        form = forms.pop()
        forms += form.items
        if _is_table(form.kind) and form.kind not in found:
            found.add(form.kind)
            forms += (field.form for field in _fields(form.kind))
    return found


def _as_in_files(part: Any) -> Any:
    """Returns a part of a JSON Schema with what may stand in files where `written_as` or `OneOrMore` say so."""
    if isinstance(part, list):
        return [_as_in_files(each) for each in part]
    if not isinstance(part, dict):
        return part
    kept = {key: part[key] for key in ("description", "default") if key in part}
    if _IN_FILES in part:
        return {**part[_IN_FILES], **kept}
    whole = {key: _as_in_files(value) for key, value in part.items() if key != _ONE_OR_MORE}
    if _ONE_OR_MORE in part:
        array = {key: value for key, value in whole.items() if key not in kept}
        return {**kept, "anyOf": [array["items"], array]}
    if "anyOf" in whole:
        forms = (each["anyOf"] if set(each) == {"anyOf"} else [each] for each in whole["anyOf"])
        whole["anyOf"] = [form for several in forms for form in several]
    return whole


class _Form(NamedTuple):
    """A declared type, taken apart.

    Attributes:
        kind: the type itself, without marks and without None.
        limits: of the value, or of the number of items.
        limited: the type with its limits, as msgspec takes it.
        optional: whether the key may be there without a value.
        parse: makes the value from what stands in the file.
        one_or_more: whether a list of one needs no brackets.
        items: the types in a list (one), a pair (two) or a mapping (one: its values).
    """

    kind: Any
    limits: tuple[Limits, ...]
    limited: Any
    optional: bool
    parse: Callable[[Any], Any] | None
    one_or_more: bool
    items: tuple[_Form, ...]

    @property
    def description(self) -> str:
        """What the field says about itself, else what kind of value it holds and that the key must be added."""
        said = next((limit.description for limit in self.limits if limit.description), None)
        if said is not None:
            return said
        if isinstance(self.kind, type) and issubclass(self.kind, Table):
            needed = " and ".join(name for name, required, _ in _fields(self.kind) if required)
            return f"a mapping with {needed}; add this key" if needed else "a mapping; add this key"
        return f"{_KINDS.get(self.kind, 'a value')}; add this key"


class _Field(NamedTuple):
    name: str
    required: bool
    form: _Form


@functools.cache
def _fields(schema: type[Table]) -> tuple[_Field, ...]:
    return tuple(_Field(each.name, each.required, _form(each.type)) for each in msgspec.structs.fields(schema))


def _form(declared: Any) -> _Form:
    marks: list[Any] = []
    optional = False
    while True:
        if typing.get_origin(declared) is Annotated:
            declared, *own = typing.get_args(declared)
            marks += own
        elif typing.get_origin(declared) in {typing.Union, types.UnionType}:
            declared, *others = (each for each in typing.get_args(declared) if each is not type(None))
            if others:
                raise TypeError(f"a key has one type, not {len(others) + 1}")
            optional = True
        else:
            break
    inside = typing.get_args(declared) if typing.get_origin(declared) in {tuple, dict} else ()
    items = inside[1:] if typing.get_origin(declared) is dict else tuple(each for each in inside if each is not ...)
    limits = tuple(mark for mark in marks if isinstance(mark, Limits))
    return _Form(
        kind=declared,
        limits=limits,
        limited=_limited(declared, *limits),
        optional=optional,
        parse=next((limit.extra[_PARSE] for limit in limits if limit.extra), None),
        one_or_more=any(_ONE_OR_MORE in (limit.extra_json_schema or ()) for limit in limits),
        items=tuple(map(_form, items)),
    )


class _Reader:
    """Reads a file part by part and goes on after a fault.

    Attributes:
        faults: key path, what was found and what was expected; once there is one, what is returned is of no use.
    """

    def __init__(self) -> None:
        self.faults: list[tuple[KeyPath, str, str]] = []

    def table(self, schema: type[Table], value: Any, path: KeyPath) -> Any:
        mapping = schema.from_text(value) if isinstance(value, str) else value
        if not isinstance(mapping, dict):
            return self._miss(path, value, "a mapping")
        before = len(self.faults)
        values: dict[str, Any] = {}
        written = {key_in(mapping, name): name for name in schema.__struct_fields__}
        for name, required, form in _fields(schema):
            if (key := key_in(mapping, name)) in mapping:
                values[name] = self._value(form, mapping[key], (*path, key))
            elif required:
                self._miss((*path, name), None, form.description)
        names = schema.__struct_fields__
        for key in self._text_keys(mapping, path):
            if key in _AMERICAN.values() and key not in written and _BRITISH[key] in names:
                self.faults.append(((*path, key), f"both {_BRITISH[key]} and {key}", "one of them"))
            elif key not in written and schema.__struct_config__.forbid_unknown_fields:
                self.faults.append(
                    ((*path, key), f"the key {shown(key)}", f"one of {', '.join(names)}{closest(key, names)}")
                )
        if len(self.faults) > before:
            return None
        try:
            return schema(**values)
        except ExpectedError as error:
            return self._miss(path, value, error.expected)

    def _value(self, form: _Form, value: Any, path: KeyPath) -> Any:
        if value is None and form.optional:
            return None
        if form.parse is not None:
            try:
                return form.parse(value)
            except ExpectedError as error:
                return self._miss(path, value, error.expected)
        if _is_table(form.kind):
            return self.table(form.kind, value, path)
        if typing.get_origin(form.kind) is tuple:
            return self._list(form, value, path)
        if typing.get_origin(form.kind) is dict:
            return self._mapping(form, value, path)
        try:
            found = msgspec.convert(value, form.limited)
        except msgspec.ValidationError:
            return self._miss(path, value, _expected(form, value))
        if isinstance(found, float) and not math.isfinite(found):
            return self._miss(path, value, _FINITE)
        return found

    def _list(self, form: _Form, value: Any, path: KeyPath) -> Any:
        items = [value] if form.one_or_more and not isinstance(value, (list, tuple)) else value
        if not isinstance(items, (list, tuple)):
            return self._miss(path, value, "a list")
        forms = form.items
        if typing.get_args(form.kind)[-1] is ...:
            forms *= len(items)
        elif len(items) != len(forms):
            return self._miss(path, value, f"exactly {len(forms)} of them")
        least = max((limit.min_length or 0 for limit in form.limits), default=0)
        most = min((limit.max_length or len(items) for limit in form.limits), default=len(items))
        if len(items) < least:
            return self._miss(path, value, f"at least {least} of them")
        if len(items) > most:
            return self._miss(path, value, f"at most {most} of them")
        read = (
            self._value(each, item, (*path, index)) for index, (each, item) in enumerate(zip(forms, items, strict=True))
        )
        return tuple(read)

    def _mapping(self, form: _Form, value: Any, path: KeyPath) -> Any:
        if not isinstance(value, dict):
            return self._miss(path, value, "a mapping")
        (items,) = form.items
        return {key: self._value(items, value[key], (*path, key)) for key in self._text_keys(value, path)}

    def _text_keys(self, mapping: dict[Any, Any], path: KeyPath) -> list[str]:
        """Returns the keys that are text; others, which programs can give and files cannot, are faults."""
        self.faults += ((path, f"the key {shown(key)}", "text") for key in mapping if not isinstance(key, str))
        return [key for key in mapping if isinstance(key, str)]

    def _miss(self, path: KeyPath, value: Any, expected: str) -> None:
        self.faults.append((path, shown(value), expected))


def _expected(form: _Form, value: Any) -> str:
    """Returns what was expected instead of a single value that is not as declared."""
    if typing.get_origin(form.kind) is Literal:
        *others, last = map(repr, typing.get_args(form.kind))
        return f"{', '.join(others)} or {last}" if others else last
    if not _is(value, form.kind):
        return _TYPES[form.kind]
    if isinstance(value, float) and not math.isfinite(value):
        return _FINITE
    bounds = ((name, getattr(limits, name)) for limits in form.limits for name in _BOUNDS)
    return next(
        _BOUNDS[name].format(bound if isinstance(bound, int) else f"{bound:.15g}")
        for name, bound in bounds
        if bound is not None and not _is(value, _limited(form.kind, Limits(**{name: bound})))
    )


def _limited(kind: Any, *limits: Limits) -> Any:
    for limit in limits:
        kind = Annotated[kind, limit]
    return kind


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Table)


def _is(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True
