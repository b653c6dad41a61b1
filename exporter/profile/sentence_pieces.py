"""The door to sentencepiece: the tokenizer of a folder that has `tokenizer.model` and nothing else to make tokens with.

LLaMA's original folders are so, and it is the file that PowerInfer's converter reads. transformers 4.57 makes tokens of
it as LLaMA does; 5.23 opens it too, but without `tokenizer_config.json` leaves out `<s>` and the space before the first
word, so that other tokens are counted than the engine reads. The library itself does what the engine does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from planner.base.errors import InputError
from planner.base.text import printable

MODEL_NAME = "tokenizer.model"
_CONFIG_NAME = "tokenizer_config.json"
# Nobody's is larger; LLaMA's has 500 kB, the largest in use some MB.
_MAX_BYTES = 1 << 28


def needs_sentence_pieces(folder: Path) -> bool:
    """Whether `tokenizer.model` is all there is: transformers' own file, `tokenizer.json`, goes first."""
    return (folder / MODEL_NAME).is_file() and not (folder / "tokenizer.json").is_file()


def sentence_pieces(folder: Path) -> Callable[[str], list[int]]:
    """Returns what makes tokens of text with `tokenizer.model`, `<s>` in front as LLaMA has it.

    `add_bos_token` and `add_eos_token` of `tokenizer_config.json` say otherwise.

    Raises:
        InputError: sentencepiece is not installed, or the file is none of its models.
        OSError: a file cannot be read.
    """
    path = folder / MODEL_NAME
    try:
        import sentencepiece
    except ImportError as error:
        raise InputError(
            f"{folder}: {MODEL_NAME} is its only tokenizer, which needs the sentencepiece library ({error}); install "
            "it with: pip install sentencepiece protobuf"
        ) from None
    if path.stat().st_size > _MAX_BYTES:
        raise InputError(f"{path}: {path.stat().st_size} bytes; expected a SentencePiece model of some MB")
    begin, end = (_setting(folder, name, usual) for name, usual in (("add_bos_token", True), ("add_eos_token", False)))
    try:
        processor = sentencepiece.SentencePieceProcessor()
        processor.LoadFromSerializedProto(path.read_bytes())
    except RuntimeError as error:
        said = printable(" ".join(str(error).split()), limit=200)
        raise InputError(
            f"{path}: not a SentencePiece model ({said}); put the model's own {MODEL_NAME} or tokenizer.json there"
        ) from None

    def tokenize(text: str) -> list[int]:
        tokens: list[int] = processor.encode(text, out_type=int, add_bos=begin, add_eos=end)
        return tokens

    return tokenize


def _setting(folder: Path, name: str, usual: bool) -> bool:
    path = folder / _CONFIG_NAME
    if not path.is_file():
        return usual
    try:
        value = json.loads(path.read_bytes()).get(name, usual)
    except (ValueError, AttributeError, RecursionError):
        raise InputError(f"{path}: found no JSON object, expected the tokenizer's settings") from None
    if not isinstance(value, bool):
        raise InputError(f"{path}: {name}: found {printable(repr(value), limit=40)}, expected true or false")
    return value
