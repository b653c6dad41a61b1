"""Stand-in vocabularies: as many distinct tokens as asked for, by the rules that the engine's loader asserts."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.demo.vocabulary import byte_pairs, sentencepiece

SIZES = st.integers(259, 3000) | st.sampled_from([32_000, 50_272, 65_024])


@settings(max_examples=20, deadline=None)
@given(n_vocab=SIZES)
def test_sentencepiece(n_vocab: int) -> None:
    vocabulary = sentencepiece(n_vocab)
    assert vocabulary.kind == "llama"
    assert len(vocabulary.tokens) == len(set(vocabulary.tokens)) == n_vocab
    assert all(vocabulary.tokens)
    assert len(vocabulary.types) == n_vocab
    assert vocabulary.scores is not None
    assert len(vocabulary.scores) == n_vocab
    # Unknown, begin and end, then every byte, so that the newline is <0x0A> (`llama_byte_to_token`).
    assert vocabulary.types[:3] == (2, 3, 3)
    assert vocabulary.tokens[3 + 0x0A] == "<0x0A>"
    assert set(vocabulary.types[3:259]) == {6}
    assert set(vocabulary.types[259:]) <= {1}


@settings(max_examples=20, deadline=None)
@given(n_vocab=SIZES)
def test_byte_pairs(n_vocab: int) -> None:
    vocabulary = byte_pairs(n_vocab)
    assert vocabulary.kind == "gpt2"
    assert len(vocabulary.tokens) == len(set(vocabulary.tokens)) == n_vocab
    assert len(vocabulary.types) == n_vocab
    assert "Ċ" in vocabulary.tokens  # the newline, which the engine asks for
    assert vocabulary.tokens[-1] == "<|endoftext|>"
    assert vocabulary.merges is not None
    assert len(vocabulary.merges) == n_vocab - 257
    # Every merge joins two tokens that are there by then into the next one.
    known = set(vocabulary.tokens[:256])
    for merge, token in zip(vocabulary.merges, vocabulary.tokens[256:], strict=False):
        left, right = merge.split(" ")
        assert {left, right} <= known
        assert left + right == token
        known.add(token)
