"""Documents and windows: nothing lost, nothing twice, and the same rest from every place."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.profile import text as text_module
from exporter.profile.text import Position, documents, survey, windows
from planner.base.errors import InputError


def letters(text: str) -> list[int]:
    return [ord(character) for character in text]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def texts(*paths: Path) -> list[str]:
    return [document.text for document in documents(paths)]


def test_plain_text_is_one_document_a_file(tmp_path: Path) -> None:
    first = write(tmp_path / "a.txt", "one\n\ntwo\n")
    second = write(tmp_path / "b.md", "three")
    assert texts(first, second) == ["one\n\ntwo\n", "three"]


def test_plain_text_reads_as_python_reads_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\ntwo\rthree")
    assert texts(path) == ["one\ntwo\nthree"] == [path.read_text(encoding="utf-8-sig")]


@pytest.mark.parametrize("name", ["a.jsonl", "A.JSONL", "a.ndjson"])
def test_json_lines_are_one_document_a_line(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, '\ufeff{"text": "one", "id": 1}\n\n{"text": "two\\nlines"}\r\n{"text": ""}\n')
    assert texts(path) == ["one", "two\nlines"]


def test_a_lone_surrogate_becomes_a_question_mark(tmp_path: Path) -> None:
    assert texts(write(tmp_path / "a.jsonl", '{"text": "a\\ud800b"}')) == ["a?b"]


@given(text=st.text(alphabet="ab \n\r\té€😀", max_size=120))
def test_long_text_is_cut_without_loss(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("cut")
    plain = write(folder / "a.txt", text)
    lines = write(folder / "b.jsonl", json.dumps({"text": text}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_module, "_PIECE_BYTES", 16)
        pieces, of_line = texts(plain), texts(lines)
    # Blank pieces are left out, so compare what is not blank.
    assert "".join("".join(pieces).split()) == "".join(text.split()) == "".join("".join(of_line).split())
    assert all(len(piece.encode()) <= 16 for piece in pieces + of_line)


def test_long_text_is_cut_at_the_end_of_a_line_else_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module, "_PIECE_BYTES", 10)
    path = write(tmp_path / "a.txt", "ab cd\nef gh ij kl mn\nopqrstuvwxyz")
    assert texts(path) == ["ab cd\n", "ef gh ij ", "kl mn\n", "opqrstuvwx", "yz"]


def test_windows_cut_each_document_and_take_turns(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "abcdefg"}\n{"text": "hi"}\n{"text": "jkl"}\n')
    found = list(windows([path], letters, 3))
    assert ["".join(map(chr, window.tokens)) for window in found] == ["abc", "def", "g", "hi", "jkl"]
    assert [window.cell for window in found] == [0, 1, 0, 3, 0]
    assert [window.after.windows for window in found] == [1, 2, 3, 4, 5]
    assert [window.after.documents for window in found] == [1, 1, 1, 2, 3]


@given(
    files=st.lists(st.lists(st.text(alphabet="ab c", max_size=40), max_size=4), min_size=1, max_size=3),
    context=st.integers(1, 9),
)
def test_windows_go_on_from_every_place(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[str]], context: int
) -> None:
    folder = tmp_path_factory.mktemp("windows")
    paths = []
    for number, lines in enumerate(files):
        if number % 2:
            paths.append(write(folder / f"{number}.txt", "\n".join(lines)))
        else:
            jsonl = "".join(json.dumps({"text": line}) + "\n" for line in lines)
            paths.append(write(folder / f"{number}.jsonl", jsonl))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_module, "_PIECE_BYTES", 16)
        every = list(windows(paths, letters, context))
        for number, window in enumerate(every):
            place = Position.from_dict(json.loads(json.dumps(window.after.to_dict())))
            assert list(windows(paths, letters, context, place)) == every[number + 1 :]
    assert all(1 <= len(window.tokens) <= context for window in every)


def test_survey_names_size_and_hash(tmp_path: Path) -> None:
    (found,) = survey([write(tmp_path / "a.txt", "some text")])
    assert found.n_bytes == 9
    assert found.fingerprint == f"sha256:{hashlib.sha256(b'some text').hexdigest()}"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"good\nbad \xff", "{path}: byte 9 is not UTF-8; text must be (iconv converts it)"),
        ("a.jsonl", b'{"text": "\xff"}', "{path}: line 1 is not UTF-8; JSON lines must be"),
        (
            "a.jsonl",
            b'{"text": "x"}\n{"text": ',
            '{path}: line 2 is not JSON; each line must be {{"text": "..."}}',
        ),
        ("a.jsonl", b"[" * 200_000, '{path}: line 1 is not JSON; each line must be {{"text": "..."}}'),
        (
            "a.jsonl",
            b'{"text": "x"}\n{"content": "x"}\n',
            '{path}: line 2 has no "text" that is a string; each line must be {{"text": "..."}}',
        ),
        (
            "a.jsonl",
            b'"text"',
            '{path}: line 1 has no "text" that is a string; each line must be {{"text": "..."}}',
        ),
        ("a.txt", b" \n\n", "{path}: no text; --data needs at least one document"),
        (
            "a.parquet",
            b"PAR1",
            "{path}: .parquet files are not read; give plain text (.txt, .md, ...) or JSON lines of "
            '{{"text": "..."}} (.jsonl)',
        ),
    ],
)
def test_survey_tells_bad_text_before_anything_is_counted(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(InputError, match=f"^{re.escape(message.format(path=path))}$"):
        survey([path])


def test_survey_refuses_a_folder_and_an_endless_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=re.escape(f"{tmp_path}: not a file; --data takes files of text")):
        survey([tmp_path])
    monkeypatch.setattr(text_module, "_MAX_LINE_BYTES", 1 << 20)
    path = write(tmp_path / "a.jsonl", b'{"text": "' + b"x" * (1 << 20) + b'"}')
    with pytest.raises(InputError, match=re.escape("line 1 is longer than 1 MiB; expected one document per line")):
        survey([path])


def test_survey_leaves_a_missing_file_to_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        survey([tmp_path / "none.txt"])


@pytest.mark.parametrize("value", [None, {}, {"file": 0}, {**Position().to_dict(), "window": -1}, [1, 2]])
def test_position_takes_only_what_it_wrote(value: object) -> None:
    with pytest.raises(ValueError, match="not a position"):
        Position.from_dict(value)
