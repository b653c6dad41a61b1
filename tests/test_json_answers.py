"""Every answer of `--json` is of its format, and what is promised about the formats in the docs is so."""

from __future__ import annotations

import argparse
import errno
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import jsonschema
import pytest
import torch

import planner.cli.run
from exporter.__main__ import main
from exporter.profile import run as profile_run
from planner.base.errors import FaultsError, InputError, NoAnswerError
from planner.base.json_answer import VERSIONS
from planner.cli.run import build_parser, run_command
from planner.commands import common
from planner.plans import file as plan_file
from planner.report.schemas import FOLDER, schema_of
from tests import model_files
from tests.commands import hotsplit, rows_of
from tests.json_schemas import checked

DATA = Path(__file__).parent / "data"
STUDY = """\
title: A small study
models: bamboo-7b
quantisations: Q4_0
hosts: {catalogue: ddr4-3200-dual, memory: 16GiB}
gpus: {catalogue: rtx-4060, vram: [2GiB, 4GiB, 8GiB]}
targets: {hit_rate: 0.9}
"""
CODE = {1: [700, 20, 5, 90, 40, 3, 11, 131], 2: [1, 2, 400, 8, 16, 33, 65, 475]}
PROSE = {1: [10, 300, 100, 20, 400, 150, 13, 7], 2: [310, 202, 10, 98, 16, 133, 165, 66]}

Capture = pytest.CaptureFixture[str]


def _counts(path: Path, counts: dict[int, list[int]]) -> None:
    lines = [f"{layer},{expert},{count}" for layer, row in counts.items() for expert, count in enumerate(row)]
    path.write_text("layer,expert,count\n" + "\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model of neurons, counts of it, counts of experts, and a study."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "activation").mkdir()
    for layer in range(3):
        torch.save(torch.arange(96) + layer, tmp_path / "activation" / f"activation_{layer}.pt")
    model_files.llama(n_layer=3, n_ff=96).write(tmp_path / "m.powerinfer.gguf")
    _counts(tmp_path / "code.csv", CODE)
    _counts(tmp_path / "prose.csv", PROSE)
    (tmp_path / "study.yaml").write_text(STUDY, encoding="utf-8")
    return tmp_path


PLAN = ("plan", "--model", "m.powerinfer.gguf", "--vram-budget", "1GiB")
EXPERTS = ("plan", "--engine", "ktransformers", "--model", DATA / "moe" / "hf" / "qwen3_moe", "--context", 16,
           "--statistics", "code=code.csv", "--vram-budget", "80000B", "--reserve", "0B")  # fmt: skip

# Command lines without `--json`, in an order in which each finds the files of those before it; the format of each.
COMMANDS: tuple[tuple[str, tuple[object, ...]], ...] = (
    ("hotsplit.plan", (*PLAN, "--output", "plan.json")),
    ("hotsplit.plan", PLAN),
    ("hotsplit.plan", (*EXPERTS, "--output", "experts.json")),
    ("hotsplit.plan", (*EXPERTS, "--statistics", "prose.csv", "--robust", "worst")),
    ("hotsplit.plan", (*EXPERTS, "--tried-on", "prose.csv")),
    ("hotsplit.export", ("export", "--plan", "plan.json")),
    ("hotsplit.export", ("export", "--plan", "experts.json", "--output", "experts.pt")),
    ("hotsplit.export", ("export", *PLAN[1:], "--output", "other.gpuidx", "--granularity", "1")),
    ("hotsplit.fit", ("fit", "--model", "m.powerinfer.gguf", "--vram-budget", "1GiB")),
    ("hotsplit.fit", ("fit", "--model", "m.powerinfer.gguf")),
    ("hotsplit.fit.experts", ("fit", *EXPERTS[1:])),
    ("hotsplit.fit.experts", ("fit", *EXPERTS[1:7])),
    ("hotsplit.devices", ("devices",)),
    ("hotsplit.statistics", ("statistics", "code.csv")),
    ("hotsplit.statistics", ("statistics", "code=code.csv", "prose=prose.csv")),
    ("hotsplit.statistics", ("statistics", "activation")),
    ("hotsplit.whatif", ("whatif", "study.yaml")),
    ("hotsplit.whatif", ("whatif", "study.yaml", "--ask", "least-vram", "--ask", "largest-context")),
    ("hotsplit.whatif", ("whatif", "--model", "bamboo-7b", "--gpu", "rtx-4070")),
    ("hotsplit.whatif.experts", ("whatif", "--example", "which-gpu-for-experts", "--ask", "least-vram")),
    ("hotsplit.catalogue", ("catalogue",)),
    ("hotsplit.catalogue", ("catalogue", "gpus")),
    ("hotsplit.entry", ("catalogue", "--entry", "rtx-4090")),
    ("hotsplit.entry", ("catalogue", "--entry", "relu-llama-7b")),
    ("hotsplit.published", ("catalogue", "--published")),
    ("hotsplit.demo", ("demo", "try", "--shape", "opt-6.7b")),
    ("hotsplit.inspect", ("inspect", "m.powerinfer.gguf.generated.gpuidx")),
    ("hotsplit.inspect.experts", ("inspect", "experts.pt")),
    ("hotsplit.verify", ("verify", "m.powerinfer.gguf.generated.gpuidx", "--plan", "plan.json")),
    ("hotsplit.verify", ("verify", "m.powerinfer.gguf")),
    ("hotsplit.diff", ("diff", "m.powerinfer.gguf.generated.gpuidx", "other.gpuidx")),
    ("hotsplit.diff.experts", ("diff", "experts.pt", "experts.pt")),
    ("hotsplit.doctor", ("doctor", "--model", "m.powerinfer.gguf", "--vram-budget", "1GiB")),
    ("hotsplit.engine", ("engine", "status")),
    ("hotsplit.error", ("plan",)),
    ("hotsplit.error", ("plan", "--modle", "x")),
    ("hotsplit.error", ("verify", "nothing.gpuidx")),
    ("hotsplit.error", (*PLAN[:-1], "1KiB")),
)


def test_every_command_prints_one_document_of_its_format(here: Path, capsys: Capture) -> None:
    answers = [(name, hotsplit(capsys, *command, "--json")) for name, command in COMMANDS]
    found = [(name, checked(done.out)) for name, done in answers]
    assert [document["format"] for _, document in found] == [name for name, _ in found]
    assert all(document["version"] == VERSIONS[document["format"]] for _, document in found)
    assert all(list(document)[:2] == ["format", "version"] for _, document in found)
    # A count is checked where something is counted, in tests/test_profile.py; a measurement in tests/test_measure.py.
    assert {name for name, _ in found} == set(VERSIONS) - {"hotsplit.profile", "hotsplit.measure"}
    for name, done in answers:
        if name == "hotsplit.error":
            document = checked(done.out)
            assert document["exit_code"] == done.exit_code
            said = [line.partition("error: ")[2] for line in done.err.splitlines() if "error: " in line]
            assert document["errors"] == said


def test_every_command_with_json_is_among_those() -> None:
    with_json = {name for name, command in every_command() if "--json" in command._option_string_actions}
    tried = {" ".join(map(str, command[:2])) for _, command in COMMANDS}
    missing = {name for name in with_json if not any(each == name or each.startswith(f"{name} ") for each in tried)}
    assert missing == {"profile", "profile merge", "measure"}


def every_command() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yields the name of each command and action, and its parser."""
    yield from _commands(_parser())


def _parser() -> argparse.ArgumentParser:
    seen: list[argparse.ArgumentParser] = []

    def keep(parser: argparse.ArgumentParser, _arguments: object) -> int:
        seen.append(parser)
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner.cli.run, "run_command", keep)
        main([])
    return seen[0]


def _commands(parser: argparse.ArgumentParser, before: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                if name != "catalog":
                    yield f"{before}{name}", command
                    yield from _commands(command, f"{before}{name} ")


def test_there_is_a_schema_for_each_format_and_for_nothing_else() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == sorted(VERSIONS)
    for name, version in VERSIONS.items():
        schema = schema_of(name)
        assert schema["title"] == name
        assert schema["properties"]["format"] == {"const": name}
        assert schema["properties"]["version"] == {"const": version}
        assert schema["description"]


def test_a_schema_notices_a_key_that_is_wrong_missing_or_new() -> None:
    sound = {"format": "hotsplit.verify", "version": 1, "file": "x", "checked_against": [], "sound": True,
             "faults": [], "notes": []}  # fmt: skip
    checked(json.dumps(sound))
    missing = {key: value for key, value in sound.items() if key != "sound"}
    for wrong in ({**sound, "sound": 1}, {**sound, "version": 2}, {**sound, "more": 1}, missing):
        with pytest.raises(jsonschema.ValidationError):
            checked(json.dumps(wrong))
    # As it ships, a schema lets new keys pass: they do not change the version.
    jsonschema.validate({**sound, "more": 1}, schema_of("hotsplit.verify"))


def test_the_version_is_that_of_the_files_that_are_written() -> None:
    assert ("hotsplit.plan", VERSIONS["hotsplit.plan"]) == (plan_file.FORMAT, plan_file.VERSION)
    assert ("hotsplit.profile", VERSIONS["hotsplit.profile"]) == (profile_run.REPORT_FORMAT, profile_run.REPORT_VERSION)


def test_the_command_lists_the_formats_and_prints_a_schema(capsys: Capture) -> None:
    listed = rows_of(hotsplit(capsys, "schema").out)
    assert [(row[0], row[1]) for row in listed] == [(name, str(version)) for name, version in VERSIONS.items()]
    done = hotsplit(capsys, "schema", "hotsplit.fit")
    assert json.loads(done.out) == schema_of("hotsplit.fit") == schema_of("fit")
    done = hotsplit(capsys, "schema", "hotsplit.plam")
    assert (done.exit_code, done.out) == (2, "")
    assert done.err == "hotsplit: error: found no format 'hotsplit.plam'; did you mean 'hotsplit.plan'?\n"


def test_the_page_lists_every_format_with_its_version() -> None:
    page = (Path(__file__).parent.parent / "docs" / "json.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(hotsplit\.[a-z.]+)` \| (\d+) \| (.+?) \|", page, re.MULTILINE)
    assert [(name, int(version)) for name, version, _ in rows] == list(VERSIONS.items())
    # What the page calls the keys of a format are keys of it, and all that are required.
    for name, _, _ in rows:
        (cells,) = re.findall(rf"^\| `{re.escape(name)}` \|.*\| (.+?) \|$", page, re.MULTILINE)
        keys = set(re.findall(r"`([a-z_]+)`", cells))
        schema = schema_of(name)
        assert keys <= set(schema["properties"])
        assert set(schema["required"]) - {"format", "version"} <= keys, name


def _act(act: Callable[[argparse.Namespace], int], *options: str) -> int:
    module = ModuleType("act")

    def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        parser = subparsers.add_parser("act", help="does something")
        parser.add_argument("--json", action="store_true")
        parser.add_argument("rest", nargs="*")
        parser.set_defaults(run=act)

    module.__dict__["add_parser"] = add_parser
    return run_command(build_parser("hotsplit", "Does things.", [module]), ["act", *options])


@pytest.mark.parametrize(
    ("error", "exit_code", "errors"),
    [
        (InputError("name \x1b[2J"), 2, ["name \\x1b[2J"]),
        (NoAnswerError("nothing fits"), 1, ["nothing fits"]),
        (FaultsError(["one", "two"]), 2, ["one", "two"]),
        (FileNotFoundError(errno.ENOENT, "Not there", "m.gguf"), 2, ["m.gguf: Not there"]),
        (MemoryError(), 2, ["out of memory; close other programs or use a machine with more"]),
        (KeyboardInterrupt(), 130, ["interrupted; no file is left half-written"]),
    ],
)  # fmt: skip
def test_a_failure_is_an_object(error: BaseException, exit_code: int, errors: list[str], capsys: Capture) -> None:
    def act(_: argparse.Namespace) -> int:
        raise error

    assert _act(act, "--json") == exit_code
    printed = capsys.readouterr()
    assert checked(printed.out) == {
        "format": "hotsplit.error", "version": 1, "exit_code": exit_code, "errors": errors
    }  # fmt: skip
    assert printed.err == "".join(f"hotsplit: error: {line}\n" for line in errors)
    # Without --json, and where it is an argument and no option, standard output stays empty.
    for options in ((), ("--", "--json")):
        assert _act(act, *options) == exit_code
        assert capsys.readouterr().out == ""


def test_an_answer_that_is_a_no_is_the_only_document(capsys: Capture) -> None:
    def act(_: argparse.Namespace) -> int:
        common.print_json("hotsplit.error", {"exit_code": 0, "errors": ["an answer"]})
        raise NoAnswerError("but no")

    assert _act(act, "--json") == 1
    printed = capsys.readouterr()
    assert checked(printed.out)["errors"] == ["an answer"]
    assert printed.err == "hotsplit: error: but no\n"
