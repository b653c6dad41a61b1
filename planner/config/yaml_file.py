"""YAML files from people nobody knows: plain data, bounded in every way. The only module that knows `yaml`.

A file is read as a stream of events (libyaml where PyYAML has it), never by a loader that builds objects, so no tag can
run code and no nesting can exhaust the stack. Scalars mean what they mean in YAML 1.2's core schema: `no` and `on` are
words, `12:30` is text, `010` is ten.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from planner.base.errors import InputError
from planner.base.input_file import read_bounded
from planner.base.record import MutableRecord, field
from planner.config.document import Document, KeyPath

# A study of some thousand lines has a few hundred kilobytes.
MAX_FILE_BYTES = 1 << 20
MAX_DEPTH = 24
# What the file holds once its aliases are written out; ten aliases of ten aliases of ... end here.
MAX_VALUES = 100_000

_CORE_TAGS = {f"tag:yaml.org,2002:{name}": name for name in ("str", "int", "float", "bool", "null", "map", "seq")}
_INT = re.compile(r"[-+]?[0-9]{1,40}", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,5})?", re.ASCII)
_SPECIAL = {".inf": float("inf"), "+.inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan")}
_MAX_NUMBER_CHARACTERS = 400


def read_yaml(path: Path) -> Document:
    """Reads one YAML document, from a file or a pipe.

    Raises:
        InputError: not YAML, not UTF-8, too large, too deep, too many values, a key twice, several documents, a tag or
            an alias that is not plain data; the message names file, line and column.
        OSError: the file cannot be read.
    """
    content = read_bounded(
        path, MAX_FILE_BYTES, too_large=f"found more than {MAX_FILE_BYTES >> 20} MiB, expected a configuration"
    )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}: line {line}: found a byte that is not UTF-8, expected UTF-8 text") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> Document:
    """Returns what the YAML `text` says (see `read_yaml`); `name` is for messages."""
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _Builder(name).build(yaml.parse(text, Loader=loader))
    except yaml.MarkedYAMLError as error:
        mark: Any = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        if "maximum nesting depth" in str(error.problem):
            # libyaml has a limit of its own from PyYAML 6.0.4 on, and meets it before it reports the first level.
            raise InputError(f"{name}: {where}found more than {MAX_DEPTH} levels, expected a configuration") from None
        raise InputError(
            f"{name}: {where}{_as_found(error.problem or error.context or 'something else')}, expected YAML"
        ) from None
    except yaml.reader.ReaderError as error:
        raise InputError(
            f"{name}: found the character U+{_code_point(error.character):04X} ({error.reason}), expected YAML"
        ) from None
    except yaml.YAMLError as error:
        raise InputError(f"{name}: found {str(error).splitlines()[0]}, expected YAML") from None


class _Node(MutableRecord):
    """A value under construction: a mapping or list that is still open, or any value that is finished."""

    value: Any
    line: int
    count: int = 1  # values inside, aliases written out
    anchor: str | None = None
    key: str | None = None  # the key that waits for its value
    merges: bool = False  # that key is the merge key `<<`, not the text "<<"
    has_merged: bool = False
    lines: dict[KeyPath, int] = field(default_factory=dict)
    merged: list[Any] = field(default_factory=list)  # what `<<` named


class _Builder:
    """Builds plain data from events with a stack of its own."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._open: list[_Node] = []
        self._anchors: dict[str, _Node] = {}
        self._root: _Node | None = None

    def build(self, events: Iterator[Any]) -> Document:
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._fault(event, "a second document", "one")
            elif isinstance(event, yaml.AliasEvent):
                self._add(event, self._aliased(event))
            elif isinstance(event, yaml.ScalarEvent):
                node = _Node(self._scalar(event), _line(event), anchor=event.anchor)
                self._add(event, node)
                self._remember(node)
            elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
                self._begin(event)
            elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                self._end(event)
        if self._root is None:
            return Document(None, {(): 1}, self._name)
        return Document(self._root.value, {(): self._root.line, **self._root.lines}, self._name)

    def _fault(self, event: Any, found: str, expected: str) -> InputError:
        mark: Any = event.start_mark
        return InputError(
            f"{self._name}: line {mark.line + 1}, column {mark.column + 1}: found {found}, expected {expected}"
        )

    def _begin(self, event: Any) -> None:
        mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag is not None and _CORE_TAGS.get(event.tag) != ("map" if mapping else "seq"):
            raise self._fault(event, f"the tag {event.tag[:80]}", "plain data")
        if self._open and isinstance(self._open[-1].value, dict) and self._open[-1].key is None:
            raise self._fault(event, f"a {'mapping' if mapping else 'list'} as a key", "text")
        if len(self._open) >= MAX_DEPTH:
            raise self._fault(event, f"more than {MAX_DEPTH} levels", "a configuration")
        self._open.append(_Node({} if mapping else [], _line(event), anchor=event.anchor))

    def _end(self, event: Any) -> None:
        node = self._open.pop()
        for source in node.merged:
            for key, value in source.items():
                node.value.setdefault(key, value)
        self._add(event, node)
        self._remember(node)

    def _remember(self, node: _Node) -> None:
        if node.anchor is not None:
            self._anchors[node.anchor] = node

    def _aliased(self, event: Any) -> _Node:
        node = self._anchors.get(event.anchor)
        if node is None:
            inside = any(parent.anchor == event.anchor for parent in self._open)
            found = f"the alias *{event.anchor[:80]} " + ("inside its own anchor" if inside else "without an anchor")
            raise self._fault(event, found, "an alias of a value that comes before it")
        return _Node(node.value, _line(event), count=node.count)

    def _add(self, event: Any, node: _Node) -> None:
        """Puts a finished value into the mapping or list around it."""
        if not self._open:
            self._root = node
            return
        parent = self._open[-1]
        parent.count += node.count
        if parent.count > MAX_VALUES:
            raise self._fault(event, f"more than {MAX_VALUES} values (aliases written out)", "a configuration")
        if isinstance(parent.value, list):
            step: str | int = len(parent.value)
            parent.value.append(node.value)
        elif parent.key is None:
            self._take_key(event, parent, node)
            return
        elif parent.merges:
            self._merge(event, parent, node)
            return
        else:
            step = parent.key
            parent.value[step] = node.value
            parent.key = None
        parent.lines[(step,)] = node.line
        for inner, line in node.lines.items():
            path = (step, *inner)
            parent.lines[path] = line
        node.lines = {}

    def _take_key(self, event: Any, parent: _Node, node: _Node) -> None:
        if not isinstance(event, yaml.ScalarEvent):
            raise self._fault(event, "an alias or a collection as a key", "text")
        key = event.value
        # As in the merge type of YAML 1.1 (yaml.org/type/merge.html): `<<` written plainly; in quotes it is any text.
        parent.merges = key == "<<" and event.tag is None and event.implicit[0]
        if parent.has_merged if parent.merges else key in parent.value:
            raise self._fault(event, f"the key {key[:80]!r} a second time", "each key once")
        parent.key = key
        parent.has_merged |= parent.merges

    def _merge(self, event: Any, parent: _Node, node: _Node) -> None:
        sources = node.value if isinstance(node.value, list) else [node.value]
        if not all(isinstance(source, dict) for source in sources):
            raise self._fault(event, "something else under <<", "a mapping or a list of mappings")
        parent.merged.extend(sources)
        parent.key, parent.merges = None, False

    def _scalar(self, event: Any) -> str | int | float | bool | None:
        text: str = event.value
        kind = None if event.tag is None else _CORE_TAGS.get(event.tag)
        if event.tag == "!" or kind == "str":
            return text
        if event.tag is not None and kind is None:
            raise self._fault(event, f"the tag {event.tag[:80]}", "plain data")
        if kind is None and not event.implicit[0]:
            return text  # in quotes
        value = _plain(text)
        if kind is not None and type(value).__name__ != {"null": "NoneType"}.get(kind, kind):
            raise self._fault(event, f"{text[:80]!r} with the tag {kind}", "a value of that kind")
        return value


def _plain(text: str) -> str | int | float | bool | None:
    """Returns what a scalar without quotes means in YAML 1.2's core schema (octal and hexadecimal stay text)."""
    if text in {"", "~", "null", "Null", "NULL"}:
        return None
    if text in {"true", "True", "TRUE"}:
        return True
    if text in {"false", "False", "FALSE"}:
        return False
    if len(text) <= _MAX_NUMBER_CHARACTERS:
        if _INT.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
    return _SPECIAL.get(text.lower(), text)


def _as_found(problem: str) -> str:
    """Returns a problem in the parser's words, some of which say `found` themselves."""
    return problem if problem.startswith(("found ", "did not find ", "could not find ")) else f"found {problem}"


def _code_point(character: Any) -> int:
    return character if isinstance(character, int) else ord(character)


def _line(event: Any) -> int:
    line: int = event.start_mark.line
    return line + 1


def yaml_of(value: object) -> str:
    """Returns plain data as YAML, block style, keys in their order; `parse_yaml` reads the same data back."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)
