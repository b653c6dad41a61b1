"""Stand-in vocabularies: as many tokens as a real model has, of realistic lengths, made by counting.

A model header is mostly vocabulary, so a header to try things on needs one of real size. The two kinds are those of the
engine's `llm_load_vocab` (`llama.cpp` 2462-2580 at commit d3ebd7c): SentencePiece pieces with scores (`llama`) and
byte-pair tokens with merges (`gpt2`). All tokens are distinct, and each kind has the newline the engine asks for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from planner.base.record import Record

_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6  # `llama_token_type` in the engine's llama.h
_LETTERS = "etaoinshrdlucmfwypvbgkjqxz"


class Vocabulary(Record):
    """Tokens as a model file lists them.

    Attributes:
        kind: `llama` or `gpt2`, the value of `tokenizer.ggml.model`.
        tokens: distinct texts by token number.
        types: the engine's token type of each.
        scores: of each token, SentencePiece only.
        merges: pairs `left right`, byte-pair only.
    """

    kind: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    scores: tuple[float, ...] | None = None
    merges: tuple[str, ...] | None = None


def stand_in(kind: str, n_vocab: int) -> Vocabulary:
    """Returns a vocabulary of `n_vocab` tokens, of the kind that `tokenizer.ggml.model` names (`llama` or `gpt2`)."""
    return {"llama": sentencepiece, "gpt2": byte_pairs}[kind](n_vocab)


def sentencepiece(n_vocab: int) -> Vocabulary:
    """Returns `n_vocab` pieces: unknown, begin, end, the 256 bytes, then words; at least 259."""
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = itertools.islice(_words(), max(n_vocab - len(special), 0))
    pieces = [("▁" if number % 3 else "") + word for number, (word, _) in enumerate(words)]
    n_pieces = len(pieces)
    return Vocabulary(
        kind="llama",
        tokens=(*special, *pieces),
        types=(_UNKNOWN, _CONTROL, _CONTROL, *(_BYTE,) * 256, *(_NORMAL,) * n_pieces),
        scores=(*(0.0,) * len(special), *(-float(number) for number in range(n_pieces))),
    )


def byte_pairs(n_vocab: int) -> Vocabulary:
    """Returns `n_vocab` tokens: the 256 bytes as GPT-2 writes them, merged words, end of text; at least 257."""
    # GPT-2 writes unprintable bytes as the characters from 256 on; the newline becomes Ċ.
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = itertools.count(256)
    singles = [chr(byte) if byte in visible else chr(next(hidden)) for byte in range(256)]
    longer = ((word, merge) for word, merge in _words() if merge)
    merged = list(itertools.islice(longer, max(n_vocab - len(singles) - 1, 0)))
    return Vocabulary(
        kind="gpt2",
        tokens=(*singles, *(word for word, _ in merged), "<|endoftext|>"),
        types=(*(_NORMAL,) * (len(singles) + len(merged)), _CONTROL),
        merges=tuple(merge for _, merge in merged),
    )


def _words() -> Iterator[tuple[str, str]]:
    """Yields distinct words, short ones first, each with the pair it is merged from (none for a letter)."""
    words = list(_LETTERS)
    yield from ((letter, "") for letter in words)
    while True:
        pairs = [(word + letter, f"{word} {letter}") for word in words for letter in _LETTERS]
        yield from pairs
        words = [word for word, _ in pairs]
