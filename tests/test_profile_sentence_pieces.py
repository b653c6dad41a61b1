"""A LLaMA folder with `tokenizer.model` alone, with a SentencePiece model that is trained here."""

from __future__ import annotations

import io
import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from exporter.profile.model import open_model
from exporter.profile.run import ProfileOptions, profile
from exporter.profile.sentence_pieces import sentence_pieces
from planner.activations.folder import read_statistics
from planner.base.errors import InputError

_WHY = "the optional extra is not installed: pip install '.[profile]'"
transformers: Any = pytest.importorskip("transformers", reason=_WHY)
sentencepiece: Any = pytest.importorskip("sentencepiece", reason=_WHY)

WORDS = [f"w{number}" for number in range(60)]
N_LAYER, N_FF = 2, 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaMA with ReLU of random weights; its only tokenizer is made as LLaMA's was."""
    made: Path = tmp_path_factory.mktemp("llama")
    draw = random.Random(1)
    lines = [" ".join(draw.choices(WORDS, k=9)) for _ in range(200)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=330,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (made / "tokenizer.model").write_bytes(model.getvalue())
    config = transformers.LlamaConfig(
        vocab_size=330,
        hidden_size=32,
        num_hidden_layers=N_LAYER,
        num_attention_heads=4,
        intermediate_size=N_FF,
        hidden_act="relu",
        max_position_embeddings=64,
    )
    torch.manual_seed(5)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(made)
    assert not list(made.glob("tokenizer*.json"))
    return made


def text_of(seed: int) -> str:
    draw = random.Random(seed)
    # transformers adds no space in front of one, sentencepiece and the engine do.
    return "w7" + "".join(
        draw.choice([*WORDS, " ", "  ", "\n", "é", "…"]) + draw.choice([" ", " ", ""]) for _ in range(40)
    )


def test_tokens_are_those_of_llama(folder: Path, tmp_path: Path) -> None:
    ours = open_model(folder, device="cpu", dtype="auto", any_activation=False).tokenize
    (tmp_path / "tokenizer.model").write_bytes((folder / "tokenizer.model").read_bytes())
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "bos_token": "<s>", "legacy": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ("w1 w2 w30", *(text_of(seed) for seed in range(50))):
        assert ours(text) == theirs(text)["input_ids"]
    assert ours("w1 w2")[0] == 1


def test_counts_are_those_of_the_tokens(folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text(text_of(3))
    profile(ProfileOptions(folder, (text,), tmp_path / "activation", context=64, batch=1, device="cpu"))
    # One window: the whole model at once, each layer's gate seen on the way.
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    seen: Counter[int] = Counter()
    counts: dict[int, Any] = {}
    for number, layer in enumerate(model.model.layers):

        def count(_module: Any, _given: Any, output: Any, number: int = number) -> None:
            seen[number] += 1
            counts[number] = (output[0] > 0).sum(dim=0)

        layer.mlp.gate_proj.register_forward_hook(count)
    processor = sentencepiece.SentencePieceProcessor(model_proto=(folder / "tokenizer.model").read_bytes())
    tokens = [1, *processor.encode(text_of(3))]
    assert len(tokens) > 64
    expected = [torch.zeros(N_FF, dtype=torch.int64) for _ in range(N_LAYER)]
    with torch.no_grad():
        for start in range(0, len(tokens), 64):
            model(torch.tensor([tokens[start : start + 64]]))
            expected = [total + counts[number] for number, total in enumerate(expected)]
    assert seen[0] == -(-len(tokens) // 64)
    statistics = read_statistics(tmp_path / "activation")
    assert [values.tolist() for values in statistics.values] == [total.tolist() for total in expected]


@pytest.mark.parametrize(
    ("settings", "first", "last"),
    [("{}", 1, None), ('{"add_bos_token": false}', None, None), ('{"add_eos_token": true}', 1, 2)],
)
def test_the_folder_says_which_special_tokens(
    folder: Path, tmp_path: Path, settings: str, first: int | None, last: int | None
) -> None:
    (tmp_path / "tokenizer.model").write_bytes((folder / "tokenizer.model").read_bytes())
    plain = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).encode("w1 w2")
    (tmp_path / "tokenizer_config.json").write_text(settings)
    expected = [token for token in (first, *plain, last) if token is not None]
    assert sentence_pieces(tmp_path)("w1 w2") == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "found no JSON object, expected the tokenizer's settings"),
        ("{", "found no JSON object, expected the tokenizer's settings"),
        ('{"add_bos_token": 1}', "add_bos_token: found 1, expected true or false"),
    ],
)
def test_settings_that_are_none(folder: Path, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "tokenizer.model").write_bytes((folder / "tokenizer.model").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(InputError) as caught:
        sentence_pieces(tmp_path)
    assert str(caught.value) == f"{tmp_path / 'tokenizer_config.json'}: {message}"


@pytest.mark.parametrize("content", [b"", b"a tiktoken file\n", bytes(range(8, 250))])
def test_a_file_that_is_no_sentencepiece_model(
    tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(InputError) as caught:
        sentence_pieces(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'tokenizer.model'}: not a SentencePiece model (")
    assert str(caught.value).endswith("); put the model's own tokenizer.model or tokenizer.json there")
    assert capfd.readouterr().out == ""


def test_the_library_that_is_missing_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(InputError) as caught:
        open_model(folder, device="cpu", dtype="auto", any_activation=False)
    assert str(caught.value) == (
        f"{folder}: tokenizer.model is its only tokenizer, which needs the sentencepiece library (import of "
        "sentencepiece halted; None in sys.modules); install it with: pip install sentencepiece protobuf"
    )
