"""JSON that every program reads in the same way, or a refusal in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.base.errors import InputError
from planner.config.json_file import read_json

LEAST = '{"format": "hotsplit.plan", "version": 1, "solved_list": [3], "vram_required_bytes": 6, %s}'


@pytest.mark.parametrize(
    ("extra", "found"),
    [
        ('"hit_rate": 1e999', "found the number 1e999, larger than any float"),
        ('"mine": -1e400', "found the number -1e400, larger than any float"),
        ('"mine": [{"a": 1.5e309}]', "found the number 1.5e309, larger than any float"),
        ('"hit_rate": 0.' + "0" * 40 + "1e999", "found the number 0.0000000000000000000000…, larger than any float"),
        ('"mine": ' + "9" * 5000, "found the number 999999999999999999999999… of 5000 digits, expected at most 100"),
        ('"solved_list": [4]', "found the key 'solved_list' twice in one object"),
        ('"budget": {"source": "a", "source": "b"}', "found the key 'source' twice in one object"),
        ('"mine": {"a\\n": 1, "a\\n": 1}', "found the key 'a\\n' twice in one object"),
    ],
)
def test_json_that_programs_read_in_different_ways_is_refused(tmp_path: Path, extra: str, found: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(LEAST % extra)
    with pytest.raises(InputError) as caught:
        read_json(path, 1 << 20, what="plan", written_by="`hotsplit plan`")
    assert str(caught.value) == f"{path}: {found}; expected a plan written by `hotsplit plan`"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value: line 1 column 1 (char 0)"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b"\xff\xfe\x00", None),
        (b'"\x80"', None),
    ],
)
def test_what_is_not_json_is_refused_in_one_line(tmp_path: Path, content: bytes, reason: str | None) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_json(path, 1 << 20, what="plan", written_by="`hotsplit plan`")
    message = str(caught.value)
    assert message.startswith(f"{path}: not JSON ({reason or ''}")
    assert message.endswith("; expected a plan written by `hotsplit plan`")
    assert len(message.splitlines()) == 1


def test_what_is_sound_is_read_as_json_has_it(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text('{"a": [1, -0.5, null, true, "\\ud800"], "b": {"a": 1e300}}', encoding="utf-8")
    found = read_json(path, 1 << 20, what="plan", written_by="`hotsplit plan`")
    assert found == {"a": [1, -0.5, None, True, "\ud800"], "b": {"a": 1e300}}


def test_the_largest_file_is_read_and_one_more_byte_is_not(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(b"[1]     ")
    assert read_json(path, 8, what="plan", written_by="`hotsplit plan`") == [1]
    with pytest.raises(InputError) as caught:
        read_json(path, 7, what="plan", written_by="`hotsplit plan`")
    assert str(caught.value) == f"{path}: larger than any plan (7 bytes); is this a plan file?"
