"""Names and plans from strangers through the real commands: nothing steers the terminal, no file is lost to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch

from exporter.powerinfer.index_format import MARK_ACTIVATIONS, MARK_MODEL, IndexedLayer, Magic
from exporter.powerinfer.index_writer import write_index
from tests import model_files
from tests.commands import hotsplit

ROOT = Path(__file__).resolve().parent.parent
# Clears the screen, sets the title, a C1 control sequence, DEL, turns the writing direction, and breaks the line.
STEERING = "\x1b[2J\x1b]0;title\x07\x9b31m\x7f\u202egpj\u2028"
FORBIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
N_LAYER, N_FF = 12, 96


def write_model(path: Path) -> Path:
    (path.parent / "activation").mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    for layer in range(N_LAYER):
        counts = torch.from_numpy(random.integers(0, 99, N_FF))
        torch.save(counts, path.parent / "activation" / f"activation_{layer}.pt")
    return model_files.llama(n_layer=N_LAYER, n_ff=N_FF).write(path)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A model whose name and folder want to steer the terminal, and strangers of such names beside the statistics."""
    folder = tmp_path / f"folder{STEERING}"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system has no such names")
    model = write_model(folder / f"m{STEERING}.powerinfer.gguf")
    (folder / "activation" / f"stranger{STEERING}").touch()
    return model


def check_harmless(printed: str) -> None:
    steering = {c for c in printed if unicodedata.category(c) in FORBIDDEN} - {"\n"}
    assert not steering, ascii(printed)


COMMANDS = [
    ("plan", "--model", "MODEL", "--vram-budget", "1GiB"),
    ("plan", "--model", "MODEL", "--vram-budget", "1GiB", "--explain"),
    ("plan", "--model", "MODEL", "--vram-budget", "1GiB", "--json"),
    ("plan", "--model", "MODEL", "--vram-budget", "1KiB"),
    ("fit", "--model", "MODEL", "--vram-budget", "1GiB"),
    ("fit", "--model", "MODEL", "--vram-budget", "1GiB", "--json"),
    ("export", "--model", "MODEL", "--vram-budget", "1GiB", "--force"),
    ("export", "--model", "MODEL", "--vram-budget", "1GiB", "--force", "--json"),
    ("inspect", "INDEX"),
    ("inspect", "INDEX", "--json"),
    ("inspect", "MODEL"),
    ("verify", "INDEX", "--model", "MODEL"),
    ("verify", "INDEX", "--model", "MODEL", "--json"),
    ("verify", "MODEL"),
    ("diff", "INDEX", "INDEX"),
    ("diff", "INDEX", "INDEX", "--json"),
    ("diff", "INDEX", "MODEL"),
    ("doctor", "--model", "MODEL"),
    ("doctor", "--model", "MODEL", "--json"),
    ("demo", "FOLDER"),
    ("export", "--plan", "MODEL"),
    ("plan", "--model", "MISSING", "--vram-budget", "1GiB"),
    ("no such command \x1b[2J",),
    ("plan", "--no-such-option\x1b[2J"),
    ("plan", "--model", "MODEL", "--vram-budget", "8\x1b[2J"),
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: " ".join(arguments[:1] + arguments[2:]))
def test_no_name_steers_the_terminal(
    hostile: Path, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    index = hostile.with_name(hostile.name + ".generated.gpuidx")
    if "INDEX" in arguments:
        assert hotsplit(capsys, "export", "--model", hostile, "--vram-budget", "1GiB").exit_code == 0
    meant = {"MODEL": hostile, "INDEX": index, "FOLDER": hostile.parent, "MISSING": Path(f"{hostile}.missing")}
    done = hotsplit(capsys, *(meant.get(argument, argument) for argument in arguments))
    assert done.exit_code in {0, 1, 2}
    assert "Traceback" not in done.err
    assert done.out or done.err
    # What does not even run would show no name.
    assert done.err.startswith("usage:") == arguments[-1].endswith("\x1b[2J")
    check_harmless(done.out + done.err)
    if "--json" in arguments and done.exit_code == 0:
        assert STEERING in json.dumps(json.loads(done.out), ensure_ascii=False).replace("\\u001b", "\x1b").replace(
            "\\u0007", "\x07"
        )


MODEL_SPOILS = [
    lambda model: model.with_key(f"key{STEERING}", "string", STEERING),
    lambda model: model.with_key(f"key{STEERING}", "string", STEERING).with_key(f"llama{STEERING}", "u32", 1),
    lambda model: model.with_key("general.architecture", "string", f"llama{STEERING}"),
    lambda model: model.with_key("llama.block_count", "string", STEERING),
    lambda model: model.with_tensor(f"tensor{STEERING}", (32,), 0),
    lambda model: model.with_tensor(f"blk.0.ffn_up.weight{STEERING}", (33,), 2),
    lambda model: model.with_tensor(f"twice{STEERING}", (32,), 0).with_key(f"general.alignment{STEERING}", "u32", 3),
]


@pytest.mark.parametrize("spoil", range(len(MODEL_SPOILS)))
def test_no_name_inside_a_model_steers_the_terminal(
    tmp_path: Path, spoil: int, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "m.powerinfer.gguf")
    MODEL_SPOILS[spoil](model_files.llama(n_layer=N_LAYER, n_ff=N_FF)).write(model)
    for arguments in (
        ("plan", "--model", model, "--vram-budget", "1GiB"),
        ("plan", "--model", model, "--vram-budget", "1GiB", "--json"),
        ("fit", "--model", model),
        ("doctor", "--model", model),
        ("doctor", "--model", model, "--json"),
        ("inspect", model),
        ("verify", model),
    ):
        done = hotsplit(capsys, *arguments)
        assert done.exit_code in {0, 1, 2}
        assert done.out or done.err
        assert not done.err.startswith("usage:")
        check_harmless(done.out + done.err)


@pytest.mark.parametrize("magic", ["PWRI", "GGUF"])
def test_no_name_inside_an_index_steers_the_terminal(
    tmp_path: Path, magic: Magic, capsys: pytest.CaptureFixture[str]
) -> None:
    sound, index = tmp_path / "sound.gpuidx", tmp_path / "x.gpuidx"
    bucket = np.array([1], dtype=np.int32)
    write_index(sound, [IndexedLayer("0", 4, 1)], [bucket], 1)
    shown = 0
    for marks, label in (
        ({MARK_MODEL: STEERING, MARK_ACTIVATIONS: STEERING * 900}, "0"),
        ({f"hotsplit.{STEERING}": STEERING}, "0"),
        ({}, STEERING),
    ):
        write_index(index, [IndexedLayer(label, 4, 1)], [bucket], 1, marks=marks, magic=magic)
        for arguments in (
            ("inspect", index),
            ("inspect", index, "--json"),
            ("verify", index),
            ("verify", index, "--json"),
            ("diff", sound, index),
            ("diff", index, sound, "--json"),
            ("convert", index, tmp_path / "out.gguf"),
        ):
            done = hotsplit(capsys, *arguments)
            assert done.exit_code in {0, 1, 2}
            assert not done.err.startswith("usage:")
            check_harmless(done.out + done.err)
            shown += "\\x1b[2J" in done.out + done.err
    assert shown > 4


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are Linux's")
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_names_that_are_no_text_and_terminals_that_lack_letters(tmp_path: Path, encoding: str) -> None:
    model = write_model(tmp_path / os.fsdecode(b"mod\xc3\xa8le \xff.powerinfer.gguf"))
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "LC_ALL": "C.UTF-8"}
    plan = tmp_path / os.fsdecode(b"plan\xfe.json")
    calls: tuple[list[str | Path], ...] = (
        ["plan", "--model", model, "--vram-budget", "1GiB", "--output", plan],
        ["plan", "--model", model, "--vram-budget", "1GiB", "--json"],
        ["export", "--plan", plan, "--json"],
        ["export", "--plan", plan],
    )
    for arguments in calls:
        done = subprocess.run(
            [sys.executable, "-m", "exporter", *arguments], cwd=ROOT, env=environment, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        done.stdout.decode(encoding)
        if "--json" in arguments:
            written = json.loads(done.stdout)
            assert os.fsencode(written.get("plan", written)["model"]["path"]) == os.fsencode(model)
    assert Path(f"{model}.generated.gpuidx").exists()


def test_a_plan_cannot_name_what_no_system_call_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in ("a\x00b", "\ud800"):
        plan = tmp_path / "plan.json"
        plan.write_text(
            json.dumps(
                {
                    "format": "hotsplit.plan",
                    "version": 1,
                    "solved_list": [1],
                    "vram_required_bytes": 1,
                    "activations": {"path": path, "fingerprint": "x"},
                }
            )
        )
        done = hotsplit(capsys, "export", "--plan", plan, "--output", tmp_path / "x.gpuidx")
        assert done.exit_code == 2
        assert done.err.startswith(f"hotsplit: error: {plan}: activations.path: found ")
        assert done.err.endswith(", expected a file's path\n")
        document = {
            "format": "hotsplit.plan",
            "version": 2,
            "units": {"groups": [{"label": "0", "placed": 1}]},
            "vram_required_bytes": 1,
            "statistics": [{"path": path, "fingerprint": "x"}],
        }
        plan.write_text(json.dumps(document))
        done = hotsplit(capsys, "export", "--plan", plan, "--output", tmp_path / "x.gpuidx")
        assert done.exit_code == 2
        assert done.err.startswith(f"hotsplit: error: {plan}: statistics[0].path: found ")


def test_an_input_is_never_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path / "m.powerinfer.gguf")
    content = model.read_bytes()
    (tmp_path / "link").symlink_to(model)
    for arguments in (
        ("export", "--model", model, "--vram-budget", "1GiB", "--output", model, "--force"),
        ("export", "--model", model, "--vram-budget", "1GiB", "--output", tmp_path / "link", "--force"),
        ("plan", "--model", model, "--vram-budget", "1GiB", "--output", model),
    ):
        done = hotsplit(capsys, *arguments)
        assert done.exit_code == 2
        assert done.err.endswith(f": is {model}, which is read; name another file to write\n")
        assert model.read_bytes() == content


def test_a_link_in_a_downloaded_folder_does_not_cost_its_target(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "m.powerinfer.gguf")
    (tmp_path / "keys").write_text("ssh-ed25519 AAAA")
    output = tmp_path / "m.powerinfer.gguf.generated.gpuidx"
    output.symlink_to("keys")
    done = hotsplit(capsys, "export", "--model", model, "--vram-budget", "1GiB")
    assert done.exit_code == 2
    assert done.err.splitlines()[-1] == (
        f"hotsplit: error: {output}: a link to keys; it stays as it is, use --force to replace it "
        "(the link, not what it leads to)"
    )
    assert hotsplit(capsys, "export", "--model", model, "--vram-budget", "1GiB", "--force").exit_code == 0
    assert not output.is_symlink()
    assert (tmp_path / "keys").read_text() == "ssh-ed25519 AAAA"


def test_a_plan_alone_does_not_say_where_files_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path / "m.powerinfer.gguf")
    plan = tmp_path / "plan.json"
    assert hotsplit(capsys, "plan", "--model", model, "--vram-budget", "1GiB", "--output", plan).exit_code == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    document = json.loads(plan.read_text())
    document["model"]["path"] = str(elsewhere / "cron")
    plan.write_text(json.dumps(document))
    done = hotsplit(capsys, "export", "--plan", plan)
    assert done.exit_code == 2
    assert done.err.splitlines()[-1] == (
        f"hotsplit: error: {elsewhere / 'cron'}: the plan's model is not here, "
        "so say where the index goes with --output FILE"
    )
    assert list(elsewhere.iterdir()) == []


def test_what_changed_since_an_index_was_made_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path / "m.powerinfer.gguf")
    assert hotsplit(capsys, "export", "--model", model, "--vram-budget", "1GiB").exit_code == 0
    index = Path(f"{model}.generated.gpuidx")
    check = ("verify", index, "--model", model, "--activations", tmp_path / "activation")
    assert hotsplit(capsys, *check).exit_code == 0

    counts = torch.load(tmp_path / "activation" / "activation_7.pt")
    counts[3] += 1
    torch.save(counts, tmp_path / "activation" / "activation_7.pt")
    done = hotsplit(capsys, *check)
    assert done.exit_code == 1
    assert "hotsplit.activations_fingerprint: found sha256:" in done.out
    assert "expected the folder's sha256:" in done.out
    assert done.out.splitlines()[0].endswith("; the index is stale, export it again")

    assert hotsplit(capsys, "export", "--model", model, "--vram-budget", "1GiB").exit_code == 0
    assert hotsplit(capsys, *check).exit_code == 0
    with open(model, "ab") as file:
        file.write(bytes(32))
    done = hotsplit(capsys, *check)
    assert done.exit_code == 1
    assert "hotsplit.model_fingerprint: found sha256:" in done.out
    assert len(done.out.splitlines()) == 1


def test_a_plan_whose_inputs_changed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path / "m.powerinfer.gguf")
    plan = tmp_path / "plan.json"
    assert hotsplit(capsys, "plan", "--model", model, "--vram-budget", "1GiB", "--output", plan).exit_code == 0
    counts = torch.load(tmp_path / "activation" / "activation_0.pt")
    torch.save(counts + 1, tmp_path / "activation" / "activation_0.pt")
    done = hotsplit(capsys, "export", "--plan", plan)
    assert (done.exit_code, done.out) == (2, "")
    assert done.err.startswith(f"hotsplit: error: {plan}: statistics[0].fingerprint: found sha256:")
    assert done.err.endswith("; the statistics changed or are another model's, make the plan again\n")
    assert not Path(f"{model}.generated.gpuidx").exists()


def test_a_key_with_line_breaks_makes_no_line_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = tmp_path / "study.yaml"
    study.write_text('models: opt-30b\ngpus: rtx-4090\nhosts: pc-low\n"x\\nhotsplit: error: forged\\u2028": 1\n')
    done = hotsplit(capsys, "whatif", study)
    assert done.exit_code == 2
    assert len(done.err.splitlines()) == 1
    assert "x\\nhotsplit: error: forged\\u2028: found the key" in done.err


ALONE = """
import sys
def hook(event, arguments):
    if event.startswith("socket.") and event not in {"socket.__new__", "socket.gethostname"}:
        print(f"network: {event} {arguments}", file=sys.stderr, flush=True)
        raise SystemExit(99)
sys.addaudithook(hook)
from exporter.__main__ import main
for line in sys.stdin:
    arguments = line.rstrip("\\n").split("\\t")
    try:
        print("exit code", main(arguments), *arguments[:1], file=sys.stderr)
    except SystemExit as leaving:
        print("exit code", leaving.code, *arguments[:1], file=sys.stderr)
"""


def test_no_command_opens_a_connection(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.powerinfer.gguf")
    index, plan = f"{model}.generated.gpuidx", tmp_path / "plan.json"
    calls: tuple[tuple[str | Path, ...], ...] = (
        ("demo", tmp_path / "demo"),
        ("devices",),
        ("fit", "--model", model, "--vram-budget", "1GiB"),
        ("plan", "--model", model, "--vram-budget", "1GiB", "--output", plan),
        ("export", "--plan", plan),
        ("inspect", index),
        ("verify", index, "--model", model, "--activations", tmp_path / "activation", "--plan", plan),
        ("diff", index, index),
        ("convert", index, tmp_path / "x.gguf"),
        ("catalogue",),
        ("whatif", ROOT / "configs" / "pick-a-gpu-for-70b.yaml", "--html", tmp_path / "page.html"),
        ("completion", "bash"),
        ("doctor", "--model", model),
    )
    done = subprocess.run(
        [sys.executable, "-c", ALONE],
        input="".join("\t".join(map(str, arguments)) + "\n" for arguments in calls),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    codes = [line for line in done.stderr.splitlines() if line.startswith("exit code ")]
    assert codes == [f"exit code {int(name == 'doctor')} {name}" for name, *_ in calls], done.stderr
