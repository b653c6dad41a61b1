"""The folder of statistics: what is in it, and that no moment in between looks finished."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from exporter.profile.folder import statistics_in, write_statistics
from planner.activations.folder import read_statistics
from planner.base.errors import InputError
from planner.base.files import write_whole

COUNTS = [np.array([3, 0, 5], dtype=np.int64) + layer for layer in range(12)]


def test_every_layer_is_an_int64_vector(tmp_path: Path) -> None:
    write_statistics(tmp_path, COUNTS, b"{}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*(f"activation_{layer}.pt" for layer in range(12)), "profile.json"]
    )
    for layer, expected in enumerate(COUNTS):
        found = torch.load(tmp_path / f"activation_{layer}.pt", weights_only=True)
        assert found.dtype == torch.int64
        assert found.tolist() == expected.tolist()
    read = read_statistics(tmp_path, n_layer=12, n_ff=[3] * 12)
    assert [values.tolist() for values in read.values] == [expected.tolist() for expected in COUNTS]
    assert read.ignored == ("profile.json",)


def test_equal_counts_give_equal_bytes(tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_statistics(tmp_path / name, COUNTS, b"{}\n")
        contents.append([(path.name, path.read_bytes()) for path in sorted((tmp_path / name).iterdir())])
    assert contents[0] == contents[1]


def test_a_folder_that_was_interrupted_is_never_taken_for_a_finished_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stops the writing after every one of its steps, on a folder that held statistics of more layers."""
    for stop_after in range(13):
        folder = tmp_path / str(stop_after)
        folder.mkdir()
        for layer in range(20):
            torch.save(torch.ones(3, dtype=torch.int64), folder / f"activation_{layer}.pt")
        left = stop_after

        def stopping(path: Path, content: bytes) -> None:
            nonlocal left
            if not left:
                raise KeyboardInterrupt
            left -= 1
            write_whole(path, content)

        monkeypatch.setattr("exporter.profile.folder.write_whole", stopping)
        with pytest.raises(KeyboardInterrupt):
            write_statistics(folder, COUNTS, b"{}\n")
        with pytest.raises(InputError, match=r"activation_0\.pt is missing|holds no activation statistics"):
            read_statistics(folder)


def test_old_statistics_go_first_layer_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("activation_10.pt", "activation_2.pt", "activation_0.pt", "activation_1_3.pt", "notes.txt", "x.pt"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in statistics_in(tmp_path)] == [
        "activation_0.pt",
        "activation_1_3.pt",
        "activation_2.pt",
        "activation_10.pt",
    ]
    gone: list[str] = []
    unlink = Path.unlink

    def noting(path: Path) -> None:
        gone.append(path.name)
        unlink(path)

    monkeypatch.setattr(Path, "unlink", noting)
    write_statistics(tmp_path, COUNTS[:1], b"{}\n")
    assert gone[0] == "activation_0.pt"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["activation_0.pt", "notes.txt", "profile.json", "x.pt"]


def test_a_missing_folder_holds_no_statistics(tmp_path: Path) -> None:
    assert statistics_in(tmp_path / "none") == ()
