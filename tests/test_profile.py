"""Counting end to end, on tiny models of each shape made here, against a count of our own."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from exporter.commands import profile as command
from exporter.profile.checkpoint import CHECKPOINT_NAME
from exporter.profile.model import fingerprint_model
from exporter.profile.run import Pace, ProfileOptions, Progress, profile
from planner.activations.folder import read_statistics
from planner.base.errors import InputError
from planner.cli.run import build_parser, run_command
from tests.json_schemas import checked
from tests.processes import started

_WHY = "the optional extra is not installed: pip install '.[profile]'"
transformers: Any = pytest.importorskip("transformers", reason=_WHY)
tokenizers: Any = pytest.importorskip("tokenizers", reason=_WHY)

N_LAYER = 3
CONTEXT = 16
WORDS = [f"w{number}" for number in range(60)]
COMMON: dict[str, Any] = {
    "vocab_size": len(WORDS) + 3,
    "hidden_size": 32,
    "num_hidden_layers": N_LAYER,
    "num_attention_heads": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}


SQUARED = {"nemotron": "Nemotron", "arcee": "Arcee", "persimmon": "Persimmon", "jais2": "Jais2", "nanochat": "NanoChat"}


def make_config(family: str, **changes: Any) -> Any:
    if family == "opt":
        given = {**COMMON, "ffn_dim": 72, "word_embed_proj_dim": 32, "max_position_embeddings": 32}
        return transformers.OPTConfig(**{**given, "activation_function": "relu", "pad_token_id": 1, **changes})
    if family == "falcon":
        given = {**COMMON, "max_position_embeddings": 32, "activation": "relu"}
        return transformers.FalconConfig(**{**given, **changes})
    given = {**COMMON, "intermediate_size": 56, "hidden_act": "relu", "num_key_value_heads": 2}
    given = {**given, "max_position_embeddings": 32, **changes}
    if family in SQUARED:
        return getattr(transformers, f"{SQUARED[family]}Config")(**{**given, "hidden_act": "relu2", "head_dim": 8})
    return {"llama": transformers.LlamaConfig, "mistral": transformers.MistralConfig}[family](**given)


def make_model(folder: Path, config: Any) -> Path:
    """Saves a random model and a tokenizer that puts <s> before a document and knows our words."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {word: number + 3 for number, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>")
    fast.save_pretrained(folder)
    torch.manual_seed(5)
    model = transformers.AutoModelForCausalLM.from_config(config)
    # Fresh weights have no biases worth the name; with some, neurons differ in how hot they are.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or parameter.ndim == 2:
                parameter.normal_(0.0, 0.1)
    model.save_pretrained(folder)
    return folder


def make_text(folder: Path, documents: int = 12) -> list[Path]:
    rng = random.Random(3)
    plain = folder / "a.txt"
    plain.write_text("\n".join(" ".join(rng.choices(WORDS, k=9)) for _ in range(9)))
    lines = folder / "b.jsonl"
    lines.write_text(
        "".join(
            json.dumps({"text": " ".join(rng.choices(WORDS, k=rng.randint(1, 50)))}) + "\n" for _ in range(documents)
        )
    )
    return [plain, lines]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Matrices this small lose more time to threads waiting for each other than to arithmetic."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    made: dict[str, Path] = {}

    def make_once(family: str, **changes: Any) -> Path:
        key = f"{family} {sorted(changes.items())}"
        if key not in made:
            made[key] = make_model(tmp_path_factory.mktemp(family), make_config(family, **changes))
        return made[key]

    return make_once


def windows_of(paths: list[Path], only: int | None = None) -> list[list[int]]:
    """The windows, of one document or all, worked out from the rule: each with its <s>, cut every CONTEXT tokens."""
    documents = []
    for path in paths:
        if path.suffix == ".txt":
            documents.append(path.read_text())
        else:
            documents.extend(json.loads(line)["text"] for line in path.read_text().splitlines())
    found = []
    for document in documents if only is None else documents[only : only + 1]:
        tokens = [1, *(WORDS.index(word) + 3 for word in document.split())]
        found += [tokens[start : start + CONTEXT] for start in range(0, len(tokens), CONTEXT)]
    return found


EXPAND = {"opt": "fc1", "falcon": "dense_h_to_4h", "llama": "gate_proj", "mistral": "gate_proj"}
EXPAND |= {
    "nemotron": "up_proj",
    "arcee": "up_proj",
    "persimmon": "dense_h_to_4h",
    "jais2": "up_proj",
    "nanochat": "fc1",
}
Act = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]


def own_count(
    folder: Path, family: str, windows: list[list[int]], threshold: float = 0.0, act: Act = lambda x: np.maximum(x, 0)
) -> tuple[list[npt.NDArray[np.int64]], list[npt.NDArray[np.int64]]]:
    """Counts with the whole model, one window at a time and without padding, the block's first product in float64.

    Returns:
        for each layer the counts, and in how many cases rounding could have decided otherwise.
    """
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    linear = [module for name, module in model.named_modules() if name.endswith(EXPAND[family])]
    counts = [np.zeros(module.out_features, dtype=np.int64) for module in linear]
    unsure = [np.zeros(module.out_features, dtype=np.int64) for module in linear]
    inputs: dict[int, Any] = {}
    for layer, module in enumerate(linear):
        module.register_forward_pre_hook(lambda _, given, layer=layer: inputs.__setitem__(layer, given[0]))
    for window in windows:
        with torch.no_grad():
            model(torch.tensor([window]))
        for layer, module in enumerate(linear):
            x = inputs[layer].reshape(len(window), -1).numpy().astype(np.float64)
            values = x @ module.weight.detach().numpy().astype(np.float64).T
            if module.bias is not None:
                values += module.bias.detach().numpy()
            above = act(values) - threshold
            counts[layer] += (above > 0).sum(axis=0)
            unsure[layer] += (np.abs(above) < 1e-6 if threshold else np.abs(values) < 1e-6).sum(axis=0)
    return counts, unsure


def assert_counted(folder: Path, expected: tuple[list[npt.NDArray[np.int64]], list[npt.NDArray[np.int64]]]) -> None:
    found = read_statistics(folder).values
    assert len(found) == len(expected[0])
    for layer, (values, counts, unsure) in enumerate(zip(found, *expected, strict=True)):
        assert values.dtype == np.int64
        assert values.shape == counts.shape
        assert (np.abs(values - counts) <= unsure).all(), f"layer {layer}"
    # The allowance must stay one for rounding.
    assert sum(int(unsure.sum()) for unsure in expected[1]) <= 2


@pytest.mark.parametrize("family", ["opt", "falcon", "llama", "mistral"])
def test_counts_are_those_of_a_plain_count(
    family: str, make: Callable[..., Path], text: list[Path], tmp_path: Path
) -> None:
    folder = make(family)
    report = profile(ProfileOptions(folder, tuple(text), tmp_path / "out", context=CONTEXT, batch=5, device="cpu"))
    windows = windows_of(text)
    assert report.values["tokens"] == sum(map(len, windows))
    assert report.values["windows"] == len(windows)
    assert report.values["gated"] == (family in ("llama", "mistral"))
    assert_counted(tmp_path / "out", own_count(folder, family, windows))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "activation_0.pt",
        "activation_1.pt",
        "activation_2.pt",
        "profile.json",
    ]


@pytest.mark.parametrize("family", SQUARED)
def test_squared_relu_without_a_gate_counts(family: str, text: list[Path], tmp_path: Path) -> None:
    if not hasattr(transformers, f"{SQUARED[family]}Config"):
        pytest.skip(f"transformers {transformers.__version__} has no {SQUARED[family]}")
    folder = make_model(tmp_path / "model", make_config(family))
    told: list[str] = []
    options = ProfileOptions(folder, tuple(text), tmp_path / "out", context=CONTEXT, batch=3, device="cpu")
    assert profile(options, tell=told.append).values["gated"] is False
    assert_counted(tmp_path / "out", own_count(folder, family, windows_of(text)))
    assert told == [
        "a squared ReLU (relu2): its zeros are a ReLU's, but no engine that splits neurons between GPU and CPU "
        "computes it; the counts say how sparse the model is"
    ]


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("falcon", {"alibi": True}),
        ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
        ("opt", {"do_layer_norm_before": False}),
        ("mistral", {"sliding_window": 8}),
        ("llama", {"mlp_bias": True}),
    ],
)
def test_variants_of_a_family_count_the_same_way(
    family: str, changes: dict[str, Any], make: Callable[..., Path], text: list[Path], tmp_path: Path
) -> None:
    folder = make(family, **changes)
    profile(ProfileOptions(folder, tuple(text), tmp_path / "out", context=CONTEXT, batch=3, device="cpu"))
    assert_counted(tmp_path / "out", own_count(folder, family, windows_of(text)))


def test_tokens_stops_after_exactly_so_many(make: Callable[..., Path], text: list[Path], tmp_path: Path) -> None:
    folder = make("llama")
    report = profile(
        ProfileOptions(folder, tuple(text), tmp_path / "out", tokens=131, context=CONTEXT, batch=4, device="cpu")
    )
    windows, left = [], 131
    for window in windows_of(text):
        windows.append(window[:left])
        left -= len(windows[-1])
        if not left:
            break
    assert left == 0
    assert len(windows[-1]) < CONTEXT
    assert report.values["tokens"] == 131
    assert_counted(tmp_path / "out", own_count(folder, "llama", windows))


def test_a_threshold_counts_outputs_above_it(make: Callable[..., Path], text: list[Path], tmp_path: Path) -> None:
    def silu(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(x / (1 + np.exp(-x)), dtype=np.float64)

    for name, folder, act in (
        ("relu", make("llama"), lambda x: np.maximum(x, 0)),
        ("silu", make("llama", hidden_act="silu"), silu),
    ):
        options = ProfileOptions(folder, tuple(text), tmp_path / name, context=CONTEXT, threshold=0.25, device="cpu")
        profile(options)
        assert_counted(tmp_path / name, own_count(folder, "llama", windows_of(text), 0.25, act))


def test_batches_add_up(make: Callable[..., Path], text: list[Path], tmp_path: Path) -> None:
    """However windows are put together, the counts are those of the windows alone."""
    windows = windows_of(text)
    folder = make("opt")
    for batch in (1, 64):
        seen: list[Progress] = []
        options = ProfileOptions(
            folder, tuple(text), tmp_path / str(batch), context=CONTEXT, batch=batch, device="cpu", checkpoint_seconds=0
        )
        report = profile(options, seen.append)
        assert_counted(tmp_path / str(batch), own_count(folder, "opt", windows))
        assert seen[-1].tokens == report.values["tokens"]
        assert seen[-1].agreement == report.agreement
        assert [progress.fraction for progress in seen] == sorted(progress.fraction for progress in seen)


@pytest.mark.parametrize("by", ["documents", "windows"])
def test_halves_are_other_documents_or_other_windows(
    by: str, make: Callable[..., Path], text: list[Path], tmp_path: Path
) -> None:
    folder = make("opt")
    paths = text if by == "documents" else text[:1]
    report = profile(ProfileOptions(folder, tuple(paths), tmp_path, context=CONTEXT, batch=7, device="cpu"))
    assert report.values["halves_by"] == by
    units = [windows_of(paths, document) for document in range(report.values["documents"])]
    if by == "windows":
        units = [[window] for window in units[0]]
    halves = [own_count(folder, "opt", [*itertools.chain(*units[half::2])])[0] for half in (0, 1)]
    for layer, measured in enumerate(report.agreement.layers):
        a, b = ([float((c < x).sum() + (c == x).sum() / 2) for x in c] for c in (halves[0][layer], halves[1][layer]))
        assert measured.rank == pytest.approx(np.corrcoef(a, b)[0, 1], abs=0.01)


def test_one_window_is_no_halves(make: Callable[..., Path], text: list[Path], tmp_path: Path) -> None:
    report = profile(ProfileOptions(make("opt"), tuple(text), tmp_path, tokens=9, device="cpu"))
    assert report.agreement.layers == ()
    assert report.values["verdict"] == (
        "rank agreement of halves cannot be measured, the text is a single window of tokens: use more text"
    )
    assert not report.values["enough"]
    assert "rank_agreement" not in report.values["layers"][0]


CHILD = """
import sys, time
from pathlib import Path
import torch
from exporter.profile.run import ProfileOptions, profile

torch.set_num_threads(1)
model, output, *data = map(Path, sys.argv[1:])
batches = 0

def listen(progress):
    global batches
    batches += 1
    if batches == 5:
        print("counted", progress.tokens, flush=True)
        time.sleep(600)

profile(ProfileOptions(model, tuple(data), output, context=16, batch=2, device="cpu", checkpoint_seconds=0), listen)
"""


def test_killed_and_resumed_counts_the_same(make: Callable[..., Path], text: list[Path], tmp_path: Path) -> None:
    folder = make("falcon")
    whole = profile(ProfileOptions(folder, tuple(text), tmp_path / "whole", context=16, batch=2, device="cpu"))
    output = tmp_path / "killed"
    command = [sys.executable, "-c", CHILD, folder, output, *text]
    with started(command, stdout=subprocess.PIPE, cwd=Path(__file__).resolve().parent.parent) as child:
        assert child.stdout is not None
        told = child.stdout.readline().split()
        child.kill()
    assert told[0] == "counted"
    assert 0 < int(told[1]) < whole.values["tokens"]
    assert [path.name for path in output.iterdir()] == [CHECKPOINT_NAME]

    options = ProfileOptions(folder, tuple(text), output, context=16, batch=2, device="cpu")
    with pytest.raises(InputError, match=re.escape("holds the checkpoint of an unfinished count; go on with --resume")):
        profile(options)
    other = ProfileOptions(folder, tuple(text), output, context=8, batch=2, device="cpu", resume=True)
    with pytest.raises(InputError, match=re.escape("the checkpoint is of another run: window (16, now 8)")):
        profile(other)
    seen: list[Progress] = []
    resumed = ProfileOptions(folder, tuple(text), output, context=16, batch=2, device="cpu", resume=True)
    report = profile(resumed, seen.append)
    assert seen[0].tokens == int(told[1])
    assert report == whole
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert sorted(path.name for path in output.iterdir()) == files
    for name in files:
        assert (output / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_interruption_keeps_what_was_counted(
    make: Callable[..., Path],
    text: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = make("opt")
    arguments = ["profile", "--model", str(folder), "--data", *map(str, text), "--window", "16", "--device", "cpu"]
    arguments += ["--windows-per-batch", "1", "--output"]
    parser = build_parser("hotsplit", "", [command])
    assert run_command(parser, [*arguments, str(tmp_path / "whole"), "--json"]) == 0
    whole = checked(capsys.readouterr().out)

    called = 0

    def interrupting(progress: Progress) -> str:
        nonlocal called
        called += 1
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("exporter.commands.profile._progress_line", interrupting)
        assert run_command(parser, [*arguments, str(tmp_path / "out"), "--checkpoint-seconds", "0"]) == 130
    assert called == 1
    assert "interrupted; what was counted is kept, go on with --resume" in capsys.readouterr().err
    assert run_command(parser, [*arguments, str(tmp_path / "out"), "--resume", "--json"]) == 0
    assert checked(capsys.readouterr().out) == whole
    assert whole["counted"]["model"] == fingerprint_model(folder)


def test_finished_statistics_are_replaced_only_when_told(
    make: Callable[..., Path], text: list[Path], tmp_path: Path
) -> None:
    torch.save(torch.ones(4, dtype=torch.int64), tmp_path / "activation_7.pt")
    options = ProfileOptions(make("opt"), tuple(text), tmp_path, context=CONTEXT, device="cpu")
    message = (
        f"{tmp_path}: already holds statistics (activation_7.pt, ...); choose another --output or replace them "
        f"with --force"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        profile(options)
    profile(ProfileOptions(make("opt"), tuple(text), tmp_path, context=CONTEXT, device="cpu", force=True))
    assert len(read_statistics(tmp_path).values) == N_LAYER


def test_nothing_asks_the_network(
    make: Callable[..., Path], text: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    profile(ProfileOptions(make("mistral"), tuple(text), tmp_path, context=CONTEXT, device="cpu"))


OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DISABLE_SAFETENSORS_CONVERSION")


@pytest.mark.parametrize("before", [None, "0"])
@pytest.mark.parametrize("case", ["counts", "no folder", "no model", "bad config", "interrupted"])
def test_the_environment_is_as_before_in_every_case(
    case: str,
    before: str | None,
    make: Callable[..., Path],
    text: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import constants

    for name in OFFLINE:
        if before is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, before)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    environment = dict(os.environ)
    model = make("opt")
    if case == "no folder":
        model = tmp_path / "missing"
    elif case == "no model":
        (model := tmp_path / "empty").mkdir()
    elif case == "bad config":
        model = copied(model, tmp_path / "bad", model_type="no such type")
    seen: list[object] = []

    def listen(_: Progress) -> None:
        seen.append((os.environ["HF_HUB_OFFLINE"], constants.HF_HUB_OFFLINE))
        if case == "interrupted":
            raise KeyboardInterrupt

    options = ProfileOptions(model, tuple(text), tmp_path / "out", context=CONTEXT, device="cpu")
    with contextlib.suppress(InputError, KeyboardInterrupt):
        profile(options, listen)
    assert seen[:1] == ([("1", True)] if case in {"counts", "interrupted"} else [])
    assert dict(os.environ) == environment
    assert constants.HF_HUB_OFFLINE is False


def test_a_program_that_has_counted_can_go_online_again(make: Callable[..., Path], tmp_path: Path) -> None:
    """What huggingface_hub remembers of the environment is what the program's own environment says."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom exporter.profile.model import open_model\n"
        f"open_model(Path({str(make('opt'))!r}), device='cpu', dtype='auto', any_activation=False)\n"
        "import huggingface_hub.constants as constants\n"
        "print(constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_TELEMETRY)"
    )
    plain = {name: value for name, value in os.environ.items() if name not in OFFLINE}
    for variables, said in (({}, "False False"), ({"TRANSFORMERS_OFFLINE": "yes"}, "True False")):
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, env=plain | variables, capture_output=True, text=True, check=True, timeout=120)
        assert done.stdout == f"{said}\n"


def copied(folder: Path, to: Path, **changes: Any) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    config = json.loads((to / "config.json").read_text()) | changes
    (to / "config.json").write_text(json.dumps(config))
    return to


@pytest.mark.parametrize("model_type", ["opt", "house_made"])
def test_code_in_the_folder_is_never_run(
    model_type: str, make: Callable[..., Path], text: list[Path], tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    auto_map = {"AutoConfig": "own.Config", "AutoModel": "own.Model", "AutoModelForCausalLM": "own.Model"}
    folder = copied(make("opt"), tmp_path / "model", model_type=model_type, auto_map=auto_map)
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    options = ProfileOptions(folder, tuple(text), tmp_path / "out", context=CONTEXT, device="cpu")
    if model_type == "opt":
        profile(options)
    else:
        message = (
            f"{folder}: a model that the library does not know and that code in its folder may define (own.py); read "
            "it, then run it with --trust-remote-code: it can do anything that you can do"
        )
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            profile(options)
    assert not marker.exists()


def test_code_in_the_folder_is_run_on_request(
    make: Callable[..., Path], text: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    auto_map = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    known = make("llama")
    folder = copied(known, tmp_path / "model", model_type="house_made", auto_map=auto_map)
    (folder / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaModel\n"
        "class Config(LlamaConfig):\n    model_type = 'house_made'\n"
        "class Model(LlamaModel):\n    config_class = Config\n"
    )
    given: dict[str, Any] = {"context": CONTEXT, "device": "cpu", "trust_remote_code": True}
    report = profile(ProfileOptions(folder, tuple(text), tmp_path / "out", **given))
    assert report.values["model_type"] == "house_made"
    assert_counted(tmp_path / "out", own_count(known, "llama", windows_of(text)))


def test_the_pace_is_that_of_this_run() -> None:
    now = iter([100.0, 100.0, 104.0, 110.0])
    pace = Pace(lambda: next(now))
    # It goes on from 1,000 tokens that another run counted.
    assert pace(1000, 0.5) == (None, None)
    assert pace(1100, 0.55) == (None, None)
    assert pace(1200, 0.6) == pytest.approx((50.0, 16.0))
    assert pace(1500, 0.75) == pytest.approx((50.0, 10.0))
    progress = Progress(1500, None, 0.75, None, 50.0, 10.4)
    assert command._progress_line(progress) == "1,500 tokens, 75%, 50 tokens/s, 0:00:10 left"


def test_a_model_that_is_not_relu_is_refused(make: Callable[..., Path], text: list[Path], tmp_path: Path) -> None:
    for act in ("silu", "gelu", "leaky_relu"):
        folder = make("llama", hidden_act=act)
        message = (
            f"{folder}: the activation function {act!r} is not of the ReLU family: almost every neuron gives something "
            f"for every token, so there are no hot neurons to count and the engine cannot skip any; use the ReLU "
            f"version of the model, or give --active-above X to count outputs above X"
        )
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            profile(ProfileOptions(folder, tuple(text), tmp_path / "out", device="cpu"))
    assert not (tmp_path / "out").exists()


def test_weights_that_do_not_fill_the_model_are_refused(
    make: Callable[..., Path], text: list[Path], tmp_path: Path
) -> None:
    more = copied(make("llama"), tmp_path / "more", num_hidden_layers=N_LAYER + 1)
    with pytest.raises(InputError, match=re.escape(f"{more}: the weights lack 9 tensors that config.json asks for")):
        profile(ProfileOptions(more, tuple(text), tmp_path / "out", device="cpu"))
    wider = copied(make("llama"), tmp_path / "wider", intermediate_size=64)
    with pytest.raises(InputError, match=re.escape(str(wider))):
        profile(ProfileOptions(wider, tuple(text), tmp_path / "out", device="cpu"))
    torn = copied(make("llama"), tmp_path / "torn")
    weights = torn / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match=re.escape(f"{torn}: cannot open the weights (")):
        profile(ProfileOptions(torn, tuple(text), tmp_path / "out", device="cpu"))
    weights.unlink()
    with pytest.raises(InputError, match=re.escape(f"{torn}: no weights (*.safetensors or *.bin); is the download")):
        profile(ProfileOptions(torn, tuple(text), tmp_path / "out", device="cpu"))


def test_a_tokenizer_of_another_model_is_refused(make: Callable[..., Path], text: list[Path], tmp_path: Path) -> None:
    folder = make_model(tmp_path / "small", make_config("llama", vocab_size=20))
    message = "the model has 20: the tokenizer is not this model's"
    with pytest.raises(InputError, match=re.escape(message)):
        profile(ProfileOptions(folder, tuple(text), tmp_path / "out", device="cpu"))


def test_activations_that_are_not_numbers_are_told(make: Callable[..., Path], text: list[Path], tmp_path: Path) -> None:
    folder = copied(make("llama"), tmp_path / "model")
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.gate_proj.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=re.escape("layer 1 gives activations that are not numbers in float32")):
        profile(ProfileOptions(folder, tuple(text), tmp_path / "out", device="cpu"))


def test_a_model_that_does_not_run_is_told(
    make: Callable[..., Path], text: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make("llama")
    options = ProfileOptions(folder, tuple(text), tmp_path / "out", context=16, batch=3, device="cpu")
    for error, message in (
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            f"{folder}: not enough memory to run the model; use a --windows-per-batch under 3 or a --window under 16",
        ),
        (RuntimeError("two\nlines"), f"{folder}: cannot run the model (RuntimeError: two lines)"),
    ):

        def failing(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("exporter.profile.count.Counter._see", failing)
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            profile(options)


def test_other_shapes_are_refused(text: list[Path], tmp_path: Path) -> None:
    config = transformers.GPT2Config(vocab_size=63, n_embd=32, n_layer=2, n_head=4, activation_function="relu")
    folder = make_model(tmp_path / "gpt2", config)
    message = (
        "the layers of a 'gpt2' model are not of a known shape: profile knows LLaMA and Mistral, Nemotron, Persimmon, "
        "NanoChat, OPT, Falcon"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        profile(ProfileOptions(folder, tuple(text), tmp_path / "out", device="cpu"))


def test_options_that_make_no_sense_are_told(make: Callable[..., Path], text: list[Path], tmp_path: Path) -> None:
    def told(**changes: Any) -> str:
        given = {"model": make("opt"), "data": tuple(text), "output": tmp_path / "out", "device": "cpu"}
        with pytest.raises(InputError) as caught:
            profile(ProfileOptions(**{**given, **changes}))
        return str(caught.value)

    assert told(tokens=0) == "--tokens 0: must be 1 or more"
    assert told(batch=0) == "--windows-per-batch 0: must be 1 or more"
    assert told(context=33) == "--window 33: this model takes at most 32 tokens"
    assert told(threshold=-1.0) == "--active-above -1.0: must be a finite number, 0 or more"
    assert told(threshold=float("nan")) == "--active-above nan: must be a finite number, 0 or more"
    assert told(output=text[0]) == f"{text[0]}: exists and is not a folder; --output takes a folder"
    gguf = tmp_path / "model.gguf"
    assert told(model=gguf) == (
        f"{gguf}: a GGUF file; profile counts on the Hugging Face folder that the file was converted from"
    )
    assert told(model=tmp_path / "none") == (
        f"{tmp_path / 'none'}: not a folder; --model takes a Hugging Face folder with config.json"
    )
    assert told(model=tmp_path) == f"{tmp_path}: no config.json; --model takes a Hugging Face folder"
    if not torch.cuda.is_available():
        assert told(device="cuda").startswith("--device cuda: no GPU, torch ")


def test_the_command_prints_table_and_verdict(
    make: Callable[..., Path], text: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = build_parser("hotsplit", "", [command])
    arguments = ["profile", "--model", str(make("opt")), "--output", str(tmp_path / "out"), "--device", "cpu", "--data"]
    assert run_command(parser, [*arguments, *map(str, text)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"opt, relu, [0-9]+ tokens", out)
    assert re.search(
        r"^rank agreement of halves 0\.[0-9]{2} \(lowest, layer [0-2]\): (enough|use more text)", out, re.MULTILINE
    )
    assert f"3 files of statistics in {tmp_path / 'out'}" in out
    assert run_command(parser, [*arguments, str(tmp_path / "none.txt"), "--force"]) == 2
    assert capsys.readouterr().err == f"hotsplit: error: {tmp_path / 'none.txt'}: No such file or directory\n"


@pytest.mark.gpu
def test_a_gpu_counts_what_a_cpu_counts(make: Callable[..., Path], text: list[Path], tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no NVIDIA GPU")
    for family in ("opt", "falcon", "llama"):
        folder = make(family)
        report = profile(ProfileOptions(folder, tuple(text), tmp_path / family, context=CONTEXT, device="cuda"))
        assert report.values["counted"]["device"] == "cuda"
        found = read_statistics(tmp_path / family).values
        expected, _ = own_count(folder, family, windows_of(text))
        # Another device rounds differently, so a value next to 0 may fall on its other side.
        assert sum(int(np.abs(a - b).sum()) for a, b in zip(found, expected, strict=True)) <= 10
