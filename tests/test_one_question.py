"""`hotsplit whatif` without a file: one question by options, and the studies that come with Hotsplit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planner.studies.examples import about_example, example, example_names
from tests.commands import hotsplit

_CONFIGS = Path(__file__).parent.parent / "configs"
_ASK = ("whatif", "--model", "bamboo-7b", "--gpu", "rtx-4070", "--ram", "64GiB", "--host", "ddr4-3200-dual")


def test_a_question_is_answered_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    done = hotsplit(capsys, *_ASK, "--quantization", "Q4_0", "--context", 1024)
    assert (done.exit_code, done.err) == (0, "")
    assert done.out.splitlines()[:2] == [
        "bamboo-7b on rtx-4070",
        "bamboo-7b Q4_0 fits whole on rtx-4070: you need no split.",
    ]


def test_the_saved_study_gives_the_same_answer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    saved = tmp_path / "study.yaml"
    asked = hotsplit(capsys, *_ASK, "--tokens-per-second", 10, "--save", saved, "--json")
    read = hotsplit(capsys, "whatif", saved, "--json")
    assert json.loads(asked.out) == json.loads(read.out)
    assert asked.out == read.out
    assert {cell["quantisation"] for cell in json.loads(read.out)["cells"]} == {"F16", "Q4_0"}
    assert hotsplit(capsys, *_ASK, "--save", saved, "--json").exit_code == 0


def test_a_saved_study_takes_the_place_of_no_other_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    other = tmp_path / "study.yaml"
    other.write_text("title: mine\n")
    done = hotsplit(capsys, *_ASK, "--save", other)
    assert done.exit_code == 2
    assert "a file that is not a study of Hotsplit's" in done.err
    assert other.read_text() == "title: mine\n"


def test_without_a_gpu_every_gpu_of_the_catalogue_is_tried(capsys: pytest.CaptureFixture[str]) -> None:
    from planner.catalogue.entries import load_catalogue

    done = hotsplit(capsys, "whatif", "--model", "bamboo-7b", "--quantisation", "Q4_0", "--json")
    assert [cell["gpu"] for cell in json.loads(done.out)["cells"]] == [
        name for name, entry in load_catalogue().gpus.items() if entry.maker == "NVIDIA"
    ]
    assert done.err == (
        "hotsplit: note: the host is taken to be ddr5-5600-dual; --host NAME for another (hotsplit catalogue hosts)\n"
    )


def test_the_examples_are_the_studies_of_the_checkout(capsys: pytest.CaptureFixture[str]) -> None:
    assert example_names() == tuple(sorted(path.stem for path in _CONFIGS.glob("*.yaml")))
    for name in example_names():
        assert example(name).read_bytes() == (_CONFIGS / f"{name}.yaml").read_bytes()
        assert hotsplit(capsys, "whatif", "--example", name, "--cell", "1").exit_code in {0, 1}
    done = hotsplit(capsys, "whatif", "--example", "list")
    assert done.out.splitlines() == [f"{name}: {about_example(name)}" for name in example_names()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--example", "long-contxt"),
            f"--example: found 'long-contxt', expected one of {', '.join(example_names())}; "
            "did you mean 'long-context'?",
        ),
        (
            (),
            "found no study; ask with --model NAME --gpu NAME, show one that is shipped (--example list), or name a "
            "YAML file: hotsplit whatif FILE",
        ),
        (
            ("--example", "long-context", "--gpu", "t4", "--hit-rate", "0.5"),
            "--gpu, --hit-rate: the study says everything, so leave this out, or ask with --model NAME",
        ),
        (
            ("study.yaml", "--model", "bamboo-7b"),
            "FILE and --model: each is a study by itself; give one of them",
        ),
        (
            ("--model", "bambo-7b", "--host", "ddr4-3200-dual"),
            "--model: found 'bambo-7b', expected a model file or a name that `hotsplit catalogue` lists; "
            "did you mean 'bamboo-7b'?",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    done = hotsplit(capsys, "whatif", *arguments)
    assert (done.exit_code, done.out, done.err) == (2, "", f"hotsplit: error: {message}\n")
