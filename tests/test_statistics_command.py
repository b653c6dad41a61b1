"""`hotsplit statistics`: the figures against arithmetic of the tests' own, on real counts and real recorders' files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.commands import hotsplit, rows_of

DATA = Path(__file__).parent / "data"


def olmoe(kind: str) -> dict[tuple[int, int], int]:
    """Returns the real counts of OLMoE-1B-7B on one kind of text, by layer and expert."""
    with (DATA / "expert-counts" / "olmoe-1b-7b.csv").open(encoding="utf-8") as file:
        return {(int(row["layer"]), int(row["expert"])): int(row[kind]) for row in csv.DictReader(file)}


def counts_file(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.csv"
    lines = [f"{layer},{expert},{count}" for (layer, expert), count in olmoe(kind).items()]
    path.write_text("layer,expert,count\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def hottest(counts: dict[tuple[int, int], int], number: int) -> list[tuple[int, int]]:
    return sorted(counts, key=lambda place: (-counts[place], place))[:number]


def share(counts: dict[tuple[int, int], int], chosen: list[tuple[int, int]]) -> float:
    return sum(counts[place] for place in chosen) / sum(counts.values())


def test_what_the_hottest_cover_is_shown_beside_random_and_the_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = hotsplit(capsys, "statistics", counts_file(tmp_path, "arxiv"))
    assert done.exit_code == 0, done.err
    counts = olmoe("arxiv")
    # 19 of 192 experts by KTransformers' default: 7 of the first layer, 6 of each other.
    default = [(layer, expert) for layer, each in ((0, 7), (1, 6), (2, 6)) for expert in range(each)]
    assert rows_of(done.out)[0] == [
        "10%", "19", f"{share(counts, hottest(counts, 19)):.1%}", f"{19 / 192:.1%}", f"{share(counts, default):.1%}"
    ]  # fmt: skip
    assert "held out: unknown, the files are sums without an order" in done.out
    assert "experts per token: unknown" in done.out


def test_the_matrix_says_what_a_choice_covers_of_other_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = ("arxiv", "book", "github")
    done = hotsplit(capsys, "statistics", *(counts_file(tmp_path, kind) for kind in kinds), "--json")
    assert done.exit_code == 0, done.err
    found = json.loads(done.out)
    assert found["tried"]["names"] == list(kinds)
    for one, row in zip(kinds, found["tried"]["covered"], strict=True):
        chosen = hottest(olmoe(one), 38)
        assert row == pytest.approx([share(olmoe(other), chosen) for other in kinds])
    assert [each["later"] for each in found["workloads"]] == [None, None, None]


def test_files_of_one_workload_are_added(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ",".join(str(counts_file(tmp_path, kind)) for kind in ("arxiv", "book"))
    done = hotsplit(capsys, "statistics", f"both={files}:3", "--json")
    (both,) = json.loads(done.out)["workloads"]
    assert both["name"] == "both"
    assert both["weight"] == 3
    assert both["choices"] == sum(olmoe("arxiv").values()) + sum(olmoe("book").values())


def test_a_recording_that_keeps_its_passes_is_tried_on_its_later_part(capsys: pytest.CaptureFixture[str]) -> None:
    done = hotsplit(capsys, "statistics", DATA / "recorded" / "sglang-buffer16.pt")
    assert "held out (passes 1 to 1 and 2 to 10)" in done.out
    assert "6 of 16 rows of its buffer are unused" in done.err


def test_a_folder_of_neurons_is_one_more_recorder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hotsplit(capsys, "demo", tmp_path / "try")
    done = hotsplit(capsys, "statistics", tmp_path / "try" / "activation")
    assert done.exit_code == 0, done.err
    assert rows_of(done.out)[0][0] == "10%"
    assert "neurons" in done.out
    assert "engine's default" not in done.out


def test_two_workloads_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = counts_file(tmp_path, "arxiv")
    other = tmp_path / "more"
    other.mkdir()
    again = counts_file(other, "arxiv")
    done = hotsplit(capsys, "statistics", path, again)
    assert done.exit_code == 2
    assert done.err == (
        f"hotsplit: error: two workloads are called 'arxiv' ({path} and {again}); name them apart with NAME=FILE, or "
        "join files of one workload with commas\n"
    )


def test_workloads_of_different_models_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hot, sglang = DATA / "recorded" / "imatrix.gguf", DATA / "recorded" / "sglang-buffer16.pt"
    done = hotsplit(capsys, "statistics", hot, sglang)
    assert done.exit_code == 2
    assert done.err == (
        f"hotsplit: error: workloads 'imatrix' ({hot}) and 'sglang-buffer16' ({sglang}) are of different models: "
        "layers with choices are 0 to 2 (3) and 1 to 3 (3); name counts of one model\n"
    )


def test_the_page_shows_curves_and_matrix_and_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "worth.html"
    files = [counts_file(tmp_path, kind) for kind in ("arxiv", "book")]
    done = hotsplit(capsys, "statistics", f"<b>x={files[0]}", files[1], "--html", page)
    assert done.exit_code == 0, done.err
    text = page.read_text(encoding="utf-8")
    assert "<b>x" not in text
    assert "&lt;b&gt;x" in text
    assert "<script" not in text
    crossed = share(olmoe("book"), hottest(olmoe("arxiv"), 38))
    assert f"<td>{crossed:.1%}</td>" in text
    assert text.count("<svg") >= 2
    # A page of Hotsplit's is replaced, anything else is not.
    assert hotsplit(capsys, "statistics", files[0], "--html", page).exit_code == 0
    refused = hotsplit(capsys, "statistics", files[0], "--html", files[1])
    assert refused.exit_code == 2
    assert "--force" in refused.err
    forced = hotsplit(capsys, "statistics", files[0], "--html", files[0], "--force")
    assert (forced.exit_code, forced.out) == (2, "")
