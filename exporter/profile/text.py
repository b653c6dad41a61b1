"""The user's text: files to documents, documents to windows of tokens, with a place to resume from at every step.

A `.jsonl` or `.ndjson` file holds one document per line, `{"text": "..."}`; any other file is plain UTF-8 text and one
document. A document longer than 1 MiB is read as several, cut at the end of a line where there is one, so that memory
stays bounded however long a file is.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from planner.base.errors import InputError
from planner.base.input_file import START_BYTES, pointer
from planner.base.record import Record, as_builtins, field_names, replace
from planner.base.text import listed
from planner.base.units import MIB

_PIECE_BYTES = MIB
_MAX_LINE_BYTES = 64 * MIB
_LINES = frozenset({".jsonl", ".ndjson"})
# Known not to be plain text, though some would pass as UTF-8 and be counted as what they are not.
_NOT_TEXT = frozenset({".json", ".csv", ".parquet", ".arrow", ".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".pdf"})
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Position(Record, order=True):
    """Where in the text the next window starts.

    Attributes:
        file: number of the file, from 0.
        offset_bytes: where in the file the document starts.
        line: the document's line, from 1; 0 in plain text.
        piece: which piece of a long line, from 0.
        window: windows of this document that lie before this place.
        windows: windows of the whole text that lie before this place.
        documents: documents of the whole text that begin before this place and have windows.
    """

    file: int = 0
    offset_bytes: int = 0
    line: int = 0
    piece: int = 0
    window: int = 0
    windows: int = 0
    documents: int = 0

    def to_dict(self) -> dict[str, int]:
        """Returns the fields by name."""
        numbers: dict[str, int] = as_builtins(self)
        return numbers

    @classmethod
    def from_dict(cls, value: object) -> Position:
        """Returns what `to_dict` wrote.

        Raises:
            ValueError: `value` is anything else.
        """
        names = field_names(cls)
        if not isinstance(value, dict) or tuple(value) != names:
            raise ValueError("not a position")
        if any(type(number) is not int or number < 0 for number in value.values()):
            raise ValueError("not a position")
        return cls(**value)


class Document(Record):
    """One document, and where it starts."""

    position: Position
    text: str


class Window(Record):
    """A run of tokens that the model sees at once.

    Attributes:
        tokens: token numbers, at least one.
        cell: `2 * d + w`, with d 0 or 1 by turns from document to document, w from window to window.
        after: the place behind it.
    """

    tokens: tuple[int, ...]
    cell: int
    after: Position


class TextFile(Record):
    """One file of text that has been read through once.

    Attributes:
        path: the file.
        n_bytes: its size.
        fingerprint: `sha256:` and the hash of its content.
    """

    path: Path
    n_bytes: int
    fingerprint: str


def survey(paths: Sequence[Path]) -> tuple[TextFile, ...]:
    """Reads every file through once, so that a fault on the last line is reported before hours of counting.

    Raises:
        InputError: a path is not a file, not UTF-8, not JSON lines, or there is no text at all.
        OSError: a file cannot be read.
    """
    files = tuple(_surveyed(path) for path in paths)
    if not sum(1 for _ in documents(paths)):
        raise InputError(f"{listed([str(path) for path in paths])}: no text; --data needs at least one document")
    return files


def documents(paths: Sequence[Path], start: Position | None = None) -> Iterator[Document]:
    """Yields the documents of all files in order; blank ones are left out.

    Args:
        paths: the files.
        start: the first document's place (its windows are not looked at); the beginning when None.

    Raises:
        InputError: a file is not what it must be; the message gives the file and the line or byte.
        OSError: a file cannot be read.
    """
    start = start or Position()
    for number in range(start.file, len(paths)):
        path = paths[number]
        first = start if number == start.file else Position(file=number)
        with path.open("rb") as handle:
            handle.seek(first.offset_bytes)
            read = _lines if path.suffix.lower() in _LINES else _pieces_of_file
            for document in read(path, handle, _document(first)):
                if document.text and not document.text.isspace():
                    yield document


def windows(
    paths: Sequence[Path], tokenize: Callable[[str], list[int]], context: int, start: Position | None = None
) -> Iterator[Window]:
    """Yields the text as windows of at most `context` tokens; no window spans two documents.

    A document is tokenised whole, with the special tokens its tokenizer adds, and cut every `context` tokens; its last
    window is as long as what is left.

    Args:
        paths: the files.
        tokenize: text to token numbers.
        context: most tokens in a window.
        start: where to begin; the beginning when None.

    Raises:
        InputError, OSError: as `documents`.
    """
    start = start or Position()
    n_windows, n_documents = start.windows, start.documents
    for document in documents(paths, start):
        at = document.position
        tokens = tokenize(document.text)
        # Only the first document read can have been counted in part.
        skip = start.window if at == _document(start) else 0
        if tokens and not skip:
            n_documents += 1
        for window in range(skip, -(-len(tokens) // context)):
            n_windows += 1
            yield Window(
                tuple(tokens[window * context : (window + 1) * context]),
                2 * ((n_documents - 1) % 2) + (n_windows - 1) % 2,
                replace(at, window=window + 1, windows=n_windows, documents=n_documents),
            )


def _document(position: Position) -> Position:
    return replace(position, window=0, windows=0, documents=0)


def _surveyed(path: Path) -> TextFile:
    if not stat.S_ISREG(path.stat().st_mode):
        raise InputError(f"{path}: not a file; --data takes files of text (.txt, .md, ...) or JSON lines (.jsonl)")
    if path.suffix.lower() in _NOT_TEXT:
        raise InputError(
            f"{path}: {path.suffix} files are not read; "
            f'give plain text (.txt, .md, ...) or JSON lines of {{"text": "..."}} (.jsonl)'
        )
    digest = hashlib.sha256()
    n_bytes = 0
    with path.open("rb") as handle:
        while block := handle.read(MIB):
            if not n_bytes and (found := pointer(block[:START_BYTES])):
                raise InputError(f"{path}: {found}")
            digest.update(block)
            n_bytes += len(block)
    return TextFile(path, n_bytes, f"sha256:{digest.hexdigest()}")


def _lines(path: Path, handle: BinaryIO, at: Position) -> Iterator[Document]:
    first_piece = at.piece
    at = replace(at, line=max(1, at.line), piece=0)
    while line := handle.readline(_MAX_LINE_BYTES + 1):
        if len(line) > _MAX_LINE_BYTES:
            raise InputError(
                f"{path}: line {at.line} is longer than {_MAX_LINE_BYTES // MIB} MiB; expected one document per line"
            )
        if line.removeprefix(_BYTE_ORDER_MARK).strip():
            text = _text_of_line(path, at.line, line.removeprefix(_BYTE_ORDER_MARK))
            # What is cut must fit what encodes it; a lone surrogate is no character and no tokenizer takes it.
            encoded = text.encode("utf-8", "replace")
            offset = 0
            piece = 0
            while offset < len(encoded):
                end = offset + _cut(encoded[offset : offset + _PIECE_BYTES], last=offset + _PIECE_BYTES >= len(encoded))
                if piece >= first_piece:
                    yield Document(replace(at, piece=piece), encoded[offset:end].decode("utf-8"))
                offset = end
                piece += 1
        first_piece = 0
        at = replace(at, offset_bytes=handle.tell(), line=at.line + 1)


def _text_of_line(path: Path, number: int, line: bytes) -> str:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise InputError(f"{path}: line {number} is not UTF-8; JSON lines must be") from None
    except (ValueError, RecursionError):
        raise InputError(f'{path}: line {number} is not JSON; each line must be {{"text": "..."}}') from None
    text = value.get("text") if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise InputError(f'{path}: line {number} has no "text" that is a string; each line must be {{"text": "..."}}')
    return text


def _pieces_of_file(path: Path, handle: BinaryIO, at: Position) -> Iterator[Document]:
    while block := handle.read(_PIECE_BYTES):
        size = _cut(block, last=handle.tell() >= os.fstat(handle.fileno()).st_size)
        try:
            text = block[:size].decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: byte {at.offset_bytes + error.start} is not UTF-8; text must be (iconv converts it)"
            ) from None
        if at.offset_bytes == 0:
            text = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
        # As Python reads a text file, so that a copy from another system gives the same tokens.
        yield Document(at, text.replace("\r\n", "\n").replace("\r", "\n"))
        at = replace(at, offset_bytes=at.offset_bytes + size)
        handle.seek(at.offset_bytes)


def _cut(block: bytes, *, last: bool) -> int:
    """Returns how many bytes of `block` make one piece: up to the last line's end, else word's, else character's."""
    if last:
        return len(block)
    for separator in (b"\n", b" "):
        end = block.rfind(separator) + 1
        if end:
            return end
    end = len(block)
    while end > len(block) - 4 and end > 1 and block[end - 1] & 0xC0 == 0x80:
        end -= 1
    return end - 1 if end > 1 and block[end - 1] >= 0xC0 else end
