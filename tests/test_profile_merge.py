"""Adding counts: the sum is the count over all text, and what must not be added is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exporter.commands import profile as command
from exporter.profile.folder import write_expert_counts, write_statistics
from exporter.profile.merge import merge
from exporter.profile.run import ProfileOptions, profile
from planner.activations.folder import read_statistics
from planner.base.errors import InputError
from planner.cli.run import build_parser, run_command
from tests.json_schemas import checked

_WHY = "the optional extra is not installed: pip install 'hotsplit[profile]'"
transformers: Any = pytest.importorskip("transformers", reason=_WHY)

from tests.test_profile import make_config, make_model, make_text  # noqa: E402 - after the check


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_the_sum_is_the_count_over_both_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_model(tmp_path / "model", make_config("opt"))
    text = make_text(tmp_path)
    given: dict[str, Any] = {"context": 16, "batch": 1, "device": "cpu"}
    for name, files in (("a", text[:1]), ("b", text[1:]), ("all", text)):
        profile(ProfileOptions(model, tuple(files), tmp_path / name, **given))
    parser = build_parser("hotsplit", "", [command])
    arguments = ["profile", "merge", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "sum")]
    assert run_command(parser, [*arguments, "--json"]) == 0
    report = checked(capsys.readouterr().out)
    whole = json.loads((tmp_path / "all" / "profile.json").read_text())
    for summed, counted in zip(
        read_statistics(tmp_path / "sum").values, read_statistics(tmp_path / "all").values, strict=True
    ):
        np.testing.assert_array_equal(summed, counted)
    for key in ("tokens", "windows", "documents", "counted", "model_type", "activation", "gated"):
        assert report[key] == whole[key]
    assert [layer["active_share"] for layer in report["layers"]] == [layer["active_share"] for layer in whole["layers"]]
    assert json.loads((tmp_path / "sum" / "profile.json").read_text()) == report
    # A sum can be added to again, and then knows all its texts.
    message = (
        f"{tmp_path / 'sum'}: a text of it ({report['counted']['text'][1][7:30]}…) was counted in {tmp_path / 'b'}"
    )
    with pytest.raises(InputError, match=re.escape(message)):
        merge([tmp_path / "b", tmp_path / "sum"], tmp_path / "more", force=False)
    assert run_command(parser, arguments) == 2
    assert "already holds statistics (activation_0.pt, ...)" in capsys.readouterr().err
    assert run_command(parser, [*arguments, "--force"]) == 0
    assert run_command(parser, ["profile", "--output", "x"]) == 2
    said = "hotsplit: error: profile: --model, --data must be given; hotsplit profile --help shows how\n"
    assert capsys.readouterr().err == said


REPORT: dict[str, Any] = {
    "format": "hotsplit.profile",
    "version": 2,
    "counted": {"model": "sha256:aa", "text": ["sha256:t1"], "active_above": 0.0},
    "model_type": "opt",
    "activation": "relu",
    "tokens": 8,
    "windows": 2,
    "documents": 1,
    "layers": [{"n_ff": 2}],
}


def written(folder: Path, n_ff: int = 2, **changes: Any) -> Path:
    folder.mkdir()
    report = {**REPORT, **changes}
    write_statistics(folder, [np.arange(n_ff, dtype=np.int64)], json.dumps(report).encode())
    return folder


def test_what_must_not_be_added_is_refused(tmp_path: Path) -> None:
    a = written(tmp_path / "a")

    def told(*folders: Path) -> str:
        with pytest.raises(InputError) as caught:
            merge([a, *folders], tmp_path / "out", force=False)
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    def counted(**changes: Any) -> dict[str, Any]:
        return {**REPORT["counted"], "text": ["sha256:t2"], **changes}

    assert told() == "merge: found one folder, expected two or more to add"
    model = written(tmp_path / "b", counted=counted(model="sha256:bb"))
    assert told(model) == (
        f"{model}: the model or its tokenizer is another than in {a} (bb, there aa); only counts of one model and "
        "threshold can be added"
    )
    above = written(tmp_path / "c", counted=counted(active_above=0.5))
    assert told(above) == (
        f"{above}: the threshold (--active-above) is another than in {a} (0.5, there 0.0); only counts of one model "
        "and threshold can be added"
    )
    same = written(tmp_path / "d")
    assert told(same) == f"{same}: a text of it (t1) was counted in {a} too; count each text once"
    wider = written(tmp_path / "e", 3, counted=counted())
    assert told(wider) == f"{wider}: its layers have other neurons than those in {a}"
    old = written(tmp_path / "f", version=1)
    assert told(old) == f"{old / 'profile.json'}: is of version 1, expected 2; count again"
    for number, content in enumerate((b"[]", b"{", b'{"format": "hotsplit.profile"}', b"[" * 100_000)):
        bad = written(tmp_path / f"bad{number}")
        (bad / "profile.json").write_bytes(content)
        assert told(bad) == (
            f"{bad / 'profile.json'}: found no report of a count, expected the one that hotsplit profile wrote"
        )
    empty = tmp_path / "none"
    assert told(empty) == f"{empty}: found no finished count, expected a folder that hotsplit profile wrote"


def test_workloads_of_experts_are_put_together(tmp_path: Path) -> None:
    layers = [{"n_experts": 4, "chosen_share": 0.5}]
    for number, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        counted = {**REPORT["counted"], "text": [f"sha256:{name}"]}
        report = {**REPORT, "counted": counted, "workload_tokens": [8], "layers": layers}
        counts = np.full((1, 4), number + 4, dtype=np.int64)
        write_expert_counts(tmp_path / name, [(Path(f"{name}.txt"), counts)], json.dumps(report).encode())
    merged = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out", force=False)
    assert merged.values["workload_tokens"] == [8, 8]
    assert merged.values["layers"] == layers
    for number, name in enumerate("ab"):
        content = (tmp_path / "out" / f"experts_{number}_{name}.pt").read_bytes()
        assert content == (tmp_path / name / f"experts_0_{name}.pt").read_bytes()
