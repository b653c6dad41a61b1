"""The documentation, followed word by word: every command line and every YAML, JSON and Python block in it is run.

Conventions, for whoever writes documentation:

- A command line stands in a ```console block after `$ `; it goes on after a backslash at the line's end. All blocks of
  a page are one session in one folder, in which there are the repository's `configs/`, the demo folder `try/` and the
  model folder `ReluLLaMA-7B/` (unless the page's own commands make them). A `$ cd FOLDER` changes into a folder.
- What stands below a command is its output, standard error before standard output. `…` stands for anything in a line,
  a line with nothing but `…` for any lines. A command without output below it is run, and its output not compared.
- A command fails the test unless it ends with 0, or is followed by `$ echo $?` and the exit code.
- A ```yaml block is a study, a part of one (what is missing is taken from the smallest study) or a catalogue. One that
  starts with its file's name, `# study.yaml`, is there for the commands below it.
- A block indented by four spaces is not run, and so not allowed where it holds a command line.
- ```json blocks are JSON; ```python blocks run in the page's session.
- `<!-- not run: why -->` on the line before a block keeps it from being run: no GPU, another program, the network.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.__main__ import main

_ROOT = Path(__file__).resolve().parent.parent
_PAGES = [
    path.relative_to(_ROOT).as_posix()
    for path in (_ROOT / "README.md", _ROOT / "CONTRIBUTING.md", *sorted((_ROOT / "docs").glob("*.md")))
]
_FENCE = re.compile(
    r"(?:^<!-- not run: (?P<why>[^\n]+) -->\n)?^(?P<indent> *)```(?P<language>\w*)\n(?P<body>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_SMALLEST_STUDY = {"models": "relu-llama-7b", "gpus": "rtx-4060", "hosts": "ddr5-5600-dual"}
_MODEL = "ReluLLaMA-7B/llama-7b-relu.powerinfer.gguf"


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line of its fence, and why it is not run (None when it is)."""

    language: str
    body: str
    line: int
    why_not: str | None


@dataclass
class Call:
    """A command line of a page with what the page says about it."""

    command: str
    shown: list[str]
    line: int
    exit_code: int = 0


def blocks_of(page: str) -> list[Block]:
    text = (_ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        body = re.sub(rf"^{match['indent']}", "", match["body"], flags=re.MULTILINE)
        found.append(Block(match["language"], body, text.count("\n", 0, match.start("language")) + 1, match["why"]))
    return found


def calls_in(block: Block) -> list[Call]:
    """Returns the command lines of a console block; `$ echo $?` becomes the exit code of the one before it."""
    calls: list[Call] = []
    going_on = False
    for number, line in enumerate(block.body.splitlines(), block.line + 1):
        if going_on:
            calls[-1].command += " " + line.strip().removeprefix("> ")
        elif line.startswith("$ "):
            calls.append(Call(line[2:], [], number))
        else:
            assert calls, f"line {number}: output before the first command"
            calls[-1].shown.append(line)
        going_on = calls[-1].command.endswith("\\") and not calls[-1].shown
        if going_on:
            calls[-1].command = calls[-1].command[:-1].rstrip()
    merged: list[Call] = []
    for call in calls:
        if call.command == "echo $?":
            merged[-1].exit_code = int(call.shown[0])
        else:
            merged.append(call)
    return merged


def pattern_of(shown: list[str]) -> re.Pattern[str]:
    """Returns what matches the whole output that a page shows."""
    while shown and not shown[-1].strip():
        shown = shown[:-1]
    any_lines = r"(?:.*\n)*?"
    lines = [any_lines if line.strip() == "…" else re.escape(line.rstrip()).replace("…", ".*") + "\n" for line in shown]
    return re.compile("".join(lines))


def lines_of(printed: str) -> list[str]:
    """Returns the lines of a text with their ends."""
    return printed.splitlines(keepends=True)


class Session:
    """One page's folder and what its command lines do in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, Any] = {"__name__": "page"}

    def run(self, call: Call, where: str) -> None:
        first, _, rest = call.command.partition("|")
        words = shlex.split(first, comments=True)
        output = None
        if ">" in words:
            output = self.folder / words[words.index(">") + 1]
            words = words[: words.index(">")]
        variables = {}
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            name, _, variables[name] = words.pop(0).partition("=")
        if words[0] == "cd":
            self.folder = self.folder / words[1]
            return
        exit_code, out, err = self._run(words, variables, where)
        assert exit_code == call.exit_code, f"{where}: {call.command} ends with {exit_code}\n{err}{out}"
        if output is not None:
            output.write_text(out, encoding="utf-8")
            out = ""
        if any(line.strip() for line in call.shown) and not rest:
            printed = "".join(line.rstrip() + "\n" for line in (err + out).splitlines())
            shown = filter(str.strip, call.shown)
            missing = [line for line in shown if not any(map(pattern_of([line]).fullmatch, lines_of(printed)))]
            assert pattern_of(call.shown).fullmatch(printed), (
                f"{where}: {call.command} prints\n{printed}\nin which these shown lines are not:\n" + "\n".join(missing)
            )

    def _run(self, words: list[str], variables: dict[str, str], where: str) -> tuple[int, str, str]:
        if words[0] == "cat":
            return 0, "".join((self.folder / name).read_text(encoding="utf-8") for name in words[1:]), ""
        assert words[0] == "hotsplit", f"{where}: {words[0]} is not hotsplit; mark the block `<!-- not run: why -->`"
        with pytest.MonkeyPatch.context() as patch, captured() as (out, err):
            patch.chdir(self.folder)
            for name, value in variables.items():
                patch.setenv(name, value)
            try:
                exit_code = main(words[1:])
            except SystemExit as leaving:
                exit_code = leaving.code if isinstance(leaving.code, int) else 1
        return exit_code, out.getvalue(), err.getvalue()

    def run_python(self, body: str) -> None:
        with pytest.MonkeyPatch.context() as patch, captured():
            patch.chdir(self.folder)
            exec(compile(body, "page", "exec"), self.names)


@contextlib.contextmanager
def captured() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield out, err


def check_yaml(block: Block, folder: Path) -> None:
    """Reads a block as what it is: a catalogue (a mapping of entries), a study, or a part of a study."""
    from planner.catalogue.entries import load_catalogue
    from planner.studies.study import load_study

    document = yaml.safe_load(block.body)
    assert isinstance(document, dict)
    if any(isinstance(entry, dict) and "sources" in entry for part in document.values() for entry in entries(part)):
        own = folder / f"catalogue-{block.line}"
        own.mkdir()
        (own / "own.yaml").write_text(block.body, encoding="utf-8")
        load_catalogue(own)
        return
    named = re.match(r"# ([\w-]+\.yaml)\n", block.body)
    path = folder / (named[1] if named else f"study-{block.line}.yaml")
    whole = yaml.safe_dump({key: value for key, value in _SMALLEST_STUDY.items() if key not in document})
    path.write_text(block.body + "\n" + (whole if whole != "{}\n" else ""), encoding="utf-8")
    load_study(path)


def entries(part: object) -> list[object]:
    return list(part.values()) if isinstance(part, dict) else []


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "try"
    with captured():
        assert main(["demo", str(folder)]) == 0
    return folder


@pytest.fixture
def session(page: str, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A page's folder; the demo's files are linked into it, not copied."""
    # The driver of the machine at hand would change what is shown.
    monkeypatch.setenv("COLUMNS", "80")
    made = "\n".join(block.body for block in blocks_of(page) if block.language == "console" and block.why_not is None)
    shutil.copytree(_ROOT / "configs", tmp_path / "configs")
    if "hotsplit demo try" not in made:
        shutil.copytree(demo, tmp_path / "try", copy_function=os.link)
    (tmp_path / _MODEL).parent.mkdir()
    os.link(demo / "relu-llama-7b.powerinfer.gguf", tmp_path / _MODEL)
    shutil.copytree(demo / "activation", tmp_path / _MODEL.partition("/")[0] / "activation", copy_function=os.link)
    return Session(tmp_path)


@pytest.mark.parametrize("page", _PAGES)
def test_a_page_does_what_it_says(page: str, session: Session) -> None:
    for block in blocks_of(page):
        where = f"{page}:{block.line}"
        if block.why_not is not None:
            continue
        if block.language == "console":
            for call in calls_in(block):
                session.run(call, f"{page}:{call.line}")
        elif block.language == "yaml":
            check_yaml(block, session.folder)
        elif block.language == "json":
            json.loads(block.body)
        elif block.language == "python":
            session.run_python(block.body)
        else:
            loose = re.search(r"^(\$ |hotsplit )", block.body, re.MULTILINE)
            assert block.language, f"{where}: a fence without a language; `text` will do"
            assert not loose, f"{where}: a command line belongs into a console block, after `$ `"


@pytest.mark.parametrize("page", _PAGES)
def test_every_command_line_stands_where_it_is_run(page: str) -> None:
    text = _FENCE.sub("", (_ROOT / page).read_text(encoding="utf-8"))
    assert re.findall(r"^ +(?:\$ |hotsplit ).*$", text, re.MULTILINE) == []


@pytest.mark.parametrize("page", _PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", (_ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    for label, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (_ROOT / page).parent / file if file else _ROOT / page
        assert path.exists(), f"{page}: [{label}] leads to {target}, which is not there"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{page}: [{label}] leads to {target}, a heading that is not there"


def test_every_option_is_told_of() -> None:
    text = "".join((_ROOT / page).read_text(encoding="utf-8") for page in _PAGES)
    options: set[str] = set()
    for command in ("demo", "devices", "fit", "plan", "export", "inspect", "verify", "doctor", "whatif", "catalogue",
                    "profile", "diff", "convert", "engine", "completion"):  # fmt: skip
        with captured() as (out, _), contextlib.suppress(SystemExit):
            main([command, "--help"])
        options |= set(re.findall(r"^  (--[a-z-]+)", out.getvalue(), re.MULTILINE))
    assert len(options) > 40
    assert {option for option in options if not re.search(rf"{option}\b(?!-)", text)} == set()


@pytest.mark.parametrize("page", [page for page in _PAGES if page.startswith("docs/")])
def test_the_readme_leads_to_every_page(page: str) -> None:
    assert f"({page})" in (_ROOT / "README.md").read_text(encoding="utf-8")


def test_pages_that_code_and_messages_name_are_there() -> None:
    for folder in ("planner", "exporter", "configs"):
        for path in (_ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".yaml"}:
                for named in re.findall(r"docs/\w+\.md", path.read_text(encoding="utf-8")):
                    assert (_ROOT / named).exists(), f"{path.relative_to(_ROOT)} names {named}"


def test_output_is_compared_with_what_is_shown() -> None:
    assert pattern_of(["a … c", "…", "z", ""]).fullmatch("a bcd c\nx\ny\nz\n")
    assert pattern_of(["a", "…"]).fullmatch("a\n")
    assert not pattern_of(["a", "z"]).fullmatch("a\nb\nz\n")
    assert not pattern_of(["a b"]).fullmatch("a.b\n")


def test_command_lines_are_read_as_a_shell_would() -> None:
    block = Block("console", "$ hotsplit plan \\\n    --json\nout\n$ hotsplit fit\n$ echo $?\n1\n", 10, None)
    assert calls_in(block) == [
        Call("hotsplit plan --json", ["out"], 11),
        Call("hotsplit fit", [], 14, exit_code=1),
    ]
