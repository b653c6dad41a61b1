"""A pickle read as an inert term: names stay names, calls stay records of calls, and nothing in it ever runs.

A pickle is a program, and files come from strangers. `PickleTerm` knows the opcodes of protocols 2 to 5 that
`torch.save` uses to describe a tensor and plain values beside it; what the term means is
`planner.activations.torch_file`'s to say.

Source: PyTorch 2.13, `torch/serialization.py` (`_save`, `_legacy_save`), `torch/_weights_only_unpickler.py`; the
opcodes are those of `pickletools`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from planner.base.errors import InputError

EXPECTED = "expected one 1-D tensor written by torch.save"


class Name(NamedTuple):
    """A name that the pickle mentions, such as `torch FloatStorage`; never looked up, never imported."""

    module: str
    name: str


class Call(NamedTuple):
    """A call that the pickle asks for; never made."""

    function: object
    arguments: object


class External(NamedTuple):
    """A reference out of the pickle (a persistent id): to torch, a storage."""

    identity: object


class Mapping(NamedTuple):
    """A dict that the pickle builds: its keys and values in the order in which they were set, never hashed."""

    items: list[tuple[object, object]]


def damaged() -> InputError:
    """Returns what is said of a pickle that no version of PyTorch writes."""
    return InputError(f"has a pickle that torch.save does not write; {EXPECTED}")


class PickleTerm:
    """Reads one pickle as an inert term, with only the opcodes that describe a tensor and its Python attributes.

    Nothing is imported, called, hashed or compared, every opcode costs a bounded time, and a term takes memory in
    proportion to the pickle's bytes.

    Attributes:
        position: where reading goes on.
        externals: every reference out of the pickle, in order.
    """

    def __init__(self, content: bytes) -> None:
        self.position = 0
        self.externals: list[External] = []
        self._content = content
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def read(self) -> object:
        """Returns the term; `position` is then where the pickle ends.

        Raises:
            InputError: the pickle is damaged, or builds something that no tensor needs.
        """
        try:
            while (code := self.take(1)[0]) != _STOP:
                operation = _OPERATIONS.get(code)
                if operation is None:
                    raise InputError(f"is a pickle with an instruction no tensor needs ({_opcode(code)}); {EXPECTED}")
                operation(self)
            return self._stack.pop()
        except (IndexError, KeyError, UnicodeDecodeError):
            raise damaged() from None

    def take(self, count: int) -> bytes:
        """Returns the next `count` bytes."""
        if count < 0:
            raise damaged()
        start = self.position
        taken = self._content[start : start + count]
        if len(taken) != count:
            raise damaged()
        self.position = start + count
        return taken

    def number(self, count: int, *, signed: bool = False) -> int:
        """Returns the next `count` bytes as a little-endian number."""
        return int.from_bytes(self.take(count), "little", signed=signed)

    def line(self) -> str:
        """Returns the text up to the next line break, and steps over it."""
        end = self._content.find(b"\n", self.position)
        if end < 0:
            raise damaged()
        text = self._content[self.position : end].decode("utf-8")
        self.position = end + 1
        return text

    def push(self, term: object) -> None:
        """Puts a term on the stack."""
        self._stack.append(term)

    def pop(self) -> Any:
        """Takes the top of the stack."""
        return self._stack.pop()

    def mark(self) -> None:
        """Remembers the stack's height."""
        self._marks.append(len(self._stack))

    def pop_to_mark(self) -> list[Any]:
        """Takes what was put on the stack since the last mark."""
        height = self._marks.pop()
        if height > len(self._stack):
            raise damaged()
        terms = self._stack[height:]
        del self._stack[height:]
        return terms

    def push_tuple(self, count: int) -> None:
        """Makes one tuple of the top `count` terms."""
        if count > len(self._stack):
            raise damaged()
        terms = tuple(self._stack[-count:])
        del self._stack[-count:]
        self._stack.append(terms)

    def remember(self, place: int | None = None) -> None:
        """Notes the top of the stack under a number of its own."""
        self._memo[len(self._memo) if place is None else place] = self._stack[-1]

    def recall(self, place: int) -> None:
        """Puts a remembered term on the stack."""
        self._stack.append(self._memo[place])

    def name_from_stack(self) -> None:
        """Makes a name of two texts."""
        name, module = self.pop(), self.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise damaged()
        self.push(Name(module, name))

    def call(self) -> None:
        """Records a call, without making it."""
        arguments, function = self.pop(), self.pop()
        self.push(Call(function, arguments))

    def refer(self) -> None:
        """Makes a reference out of the pickle of the top of the stack."""
        self.externals.append(External(self.pop()))
        self.push(self.externals[-1])

    def extend_list(self, terms: list[Any]) -> None:
        """Adds to the list on top of the stack."""
        top = self._stack[-1]
        if not isinstance(top, list):
            raise damaged()
        top.extend(terms)

    def set_item(self) -> None:
        """Adds one item to the mapping below it."""
        value, key = self.pop(), self.pop()
        self._note_items([key, value])

    def set_items(self) -> None:
        """Adds the items since the last mark to the mapping below them."""
        self._note_items(self.pop_to_mark())

    def add_items(self) -> None:
        """Adds the items since the last mark to the set below them; a set is a list here."""
        self.extend_list(self.pop_to_mark())

    def set_attributes(self) -> None:
        """Steps over attributes, such as the versions in a module's `state_dict`; no tensor's call survives it."""
        self.pop()
        top = self.pop()
        self.push(Call(top.function, None) if isinstance(top, Call) else None)

    def _note_items(self, terms: list[Any]) -> None:
        """Adds keys and values, which take turns in `terms`, to the mapping on top of the stack.

        A call of `OrderedDict` keeps none of them: no tensor needs any.
        """
        top = self._stack[-1]
        if len(terms) % 2:
            raise damaged()
        if isinstance(top, Mapping):
            top.items.extend(zip(terms[::2], terms[1::2], strict=True))
        elif not (isinstance(top, Call) and top.function in _MAPPINGS):
            raise damaged()


_STOP = 0x2E
_MAPPINGS = (Name("collections", "OrderedDict"), Name("collections", "Counter"))
_OPERATIONS: dict[int, Callable[[PickleTerm], object]] = {
    0x80: lambda term: term.take(1),  # PROTO
    0x95: lambda term: term.take(8),  # FRAME
    0x28: PickleTerm.mark,
    0x63: lambda term: term.push(Name(term.line(), term.line())),  # GLOBAL
    0x93: PickleTerm.name_from_stack,  # STACK_GLOBAL
    0x71: lambda term: term.remember(term.number(1)),  # BINPUT
    0x72: lambda term: term.remember(term.number(4)),  # LONG_BINPUT
    0x94: PickleTerm.remember,  # MEMOIZE
    0x68: lambda term: term.recall(term.number(1)),  # BINGET
    0x6A: lambda term: term.recall(term.number(4)),  # LONG_BINGET
    0x58: lambda term: term.push(term.take(term.number(4)).decode("utf-8")),  # BINUNICODE
    0x8C: lambda term: term.push(term.take(term.number(1)).decode("utf-8")),  # SHORT_BINUNICODE
    0x8D: lambda term: term.push(term.take(term.number(8)).decode("utf-8")),  # BINUNICODE8
    # Python 2 wrote its text as bytes of no stated encoding; what matters here is ASCII.
    0x55: lambda term: term.push(term.take(term.number(1)).decode("latin-1")),  # SHORT_BINSTRING
    0x54: lambda term: term.push(term.take(term.number(4, signed=True)).decode("latin-1")),  # BINSTRING
    0x43: lambda term: term.push(term.take(term.number(1))),  # SHORT_BINBYTES
    0x42: lambda term: term.push(term.take(term.number(4))),  # BINBYTES
    0x8E: lambda term: term.push(term.take(term.number(8))),  # BINBYTES8
    0x96: lambda term: term.push(term.take(term.number(8))),  # BYTEARRAY8
    0x4A: lambda term: term.push(term.number(4, signed=True)),  # BININT
    0x4B: lambda term: term.push(term.number(1)),  # BININT1
    0x4D: lambda term: term.push(term.number(2)),  # BININT2
    0x8A: lambda term: term.push(term.number(term.number(1), signed=True)),  # LONG1
    0x47: lambda term: term.push(struct.unpack(">d", term.take(8))[0]),  # BINFLOAT
    0x88: lambda term: term.push(True),
    0x89: lambda term: term.push(False),
    0x4E: lambda term: term.push(None),
    0x29: lambda term: term.push(()),
    0x74: lambda term: term.push(tuple(term.pop_to_mark())),  # TUPLE
    0x85: lambda term: term.push_tuple(1),
    0x86: lambda term: term.push_tuple(2),
    0x87: lambda term: term.push_tuple(3),
    0x5D: lambda term: term.push([]),
    0x61: lambda term: term.extend_list([term.pop()]),  # APPEND
    0x65: lambda term: term.extend_list(term.pop_to_mark()),  # APPENDS
    0x7D: lambda term: term.push(Mapping([])),  # EMPTY_DICT
    0x73: PickleTerm.set_item,  # SETITEM
    0x75: PickleTerm.set_items,  # SETITEMS
    0x8F: lambda term: term.push([]),  # EMPTY_SET
    0x90: PickleTerm.add_items,  # ADDITEMS
    0x91: lambda term: term.push(tuple(term.pop_to_mark())),  # FROZENSET
    0x62: PickleTerm.set_attributes,  # BUILD
    0x52: PickleTerm.call,  # REDUCE
    0x81: PickleTerm.call,  # NEWOBJ, a call of the class
    0x51: PickleTerm.refer,  # BINPERSID
}


def _opcode(code: int) -> str:
    import pickletools

    known = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
    return known.get(code, f"byte {code:#04x}")
