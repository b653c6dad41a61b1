"""The checkpoint: what it keeps, and everything it must refuse to go on from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporter.profile.arrange import Place
from exporter.profile.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from exporter.profile.text import Position
from planner.base.errors import InputError

IDENTITY: dict[str, Any] = {"model": "sha256:aa", "text": ["sha256:bb"], "context": 512, "threshold": 0.0}
N_FF = (3, 2)


def a_checkpoint() -> Checkpoint:
    counts = (np.arange(12, dtype=np.int64).reshape(4, 3), np.full((4, 2), [7, 1 << 40], dtype=np.int64))
    return Checkpoint(counts, (10, 12, 0, 3), Place(Position(1, 100, 3, 0, 2, 9), 20, 3), finished=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "profile.checkpoint"
    save_checkpoint(path, IDENTITY, a_checkpoint())
    return path


def test_what_was_saved_is_loaded(path: Path) -> None:
    found = load_checkpoint(path, IDENTITY, N_FF)
    assert (found.tokens, found.place, found.finished) == (
        (10, 12, 0, 3),
        Place(Position(1, 100, 3, 0, 2, 9), 20, 3),
        False,
    )
    for saved, loaded in zip(a_checkpoint().counts, found.counts, strict=True):
        assert loaded.dtype == np.int64
        np.testing.assert_array_equal(saved, loaded)


def test_bytes_are_fixed(path: Path) -> None:
    magic, described, payload = path.read_bytes().split(b"\n", 2)
    assert magic == b"hotsplit.profile checkpoint 2"
    assert described.startswith(b'{"identity": {"model": "sha256:aa", "text": ["sha256:bb"], "context": 512,')
    assert payload == b"".join(value.to_bytes(8, "little") for value in (*range(12), *[7, 1 << 40] * 4))
    save_checkpoint(path, IDENTITY, a_checkpoint())
    assert path.read_bytes() == b"\n".join((magic, described, payload))


def test_another_run_is_refused_by_name(path: Path) -> None:
    other = {**IDENTITY, "context": 256, "model": "sha256:cc"}
    message = (
        f"{path}: the checkpoint is of another run: model (aa, now cc), context (512, now 256); "
        "use the same settings, or start over with --force"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        load_checkpoint(path, other, N_FF)


def test_damage_is_seen(path: Path) -> None:
    whole = path.read_bytes()
    damaged = re.escape(f"{path}: the checkpoint is damaged; start over with --force")
    for content in (whole[:-1], whole + b"\0", whole[:-3] + b"\7" + whole[-2:], whole[:60], whole.replace(b"{", b"[")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"^{damaged}$"):
            load_checkpoint(path, IDENTITY, N_FF)
    path.write_bytes(whole.replace(b'"tokens": [10, 12, 0, 3]', b'"tokens": [10, 12, 0, -3]'))
    with pytest.raises(InputError, match=damaged):
        load_checkpoint(path, IDENTITY, N_FF)


def test_another_format_is_refused(path: Path) -> None:
    path.write_bytes(b"hotsplit.profile checkpoint 1\n{}\n")
    with pytest.raises(InputError, match=re.escape("not a checkpoint of this version; start over with --force")):
        load_checkpoint(path, IDENTITY, N_FF)


def test_counts_of_another_model_are_refused(path: Path) -> None:
    with pytest.raises(InputError, match="the checkpoint is damaged"):
        load_checkpoint(path, IDENTITY, (3, 3))
