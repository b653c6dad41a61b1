"""Windows to batches: which windows share one, and that a count goes on from any place to the same batches."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exporter.profile.arrange import GROUP, Place, batches
from exporter.profile.text import Position, Window

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=90)


def windows_of(lengths: list[int], start: int = 0) -> list[Window]:
    """Windows whose tokens say which they are, from the one with number `start` on."""
    return [
        Window((number,) * length, number % 4, Position(offset_bytes=number + 1))
        for number, length in enumerate(lengths)
    ][start:]


@given(LENGTHS, st.integers(1, 3))
def test_every_window_is_in_one_batch_with_others_of_similar_length(lengths: list[int], batch: int) -> None:
    found = list(batches(iter(windows_of(lengths)), batch, start=Place(), tokens_most=None))
    seen = [window.tokens[0] for each in found for window in each.windows]
    assert sorted(seen) == list(range(len(lengths)))
    for first in range(0, len(lengths), batch * GROUP):
        group = range(first, min(first + batch * GROUP, len(lengths)))
        order = seen[first : first + batch * GROUP]
        # The longest first, equally long ones in the order of the text.
        assert order == sorted(group, key=lambda number: (-lengths[number], number))
    assert found[-1].after == Place(Position(offset_bytes=len(lengths)), sum(lengths), 0)
    assert [each.share for each in found if each.after.batches == 0] == [1.0] * -(-len(lengths) // (batch * GROUP))


@given(LENGTHS, st.integers(1, 3), st.none() | st.integers(1, 200))
def test_a_count_goes_on_from_any_place_to_the_same_batches(
    lengths: list[int], batch: int, tokens_most: int | None
) -> None:
    whole = list(batches(iter(windows_of(lengths)), batch, start=Place(), tokens_most=tokens_most))
    wanted = sum(lengths) if tokens_most is None else min(tokens_most, sum(lengths))
    assert sum(each.tokens for each in whole) == wanted
    for number, each in enumerate(whole):
        rest = windows_of(lengths, each.after.position.offset_bytes)
        assert list(batches(iter(rest), batch, start=each.after, tokens_most=tokens_most)) == whole[number + 1 :]
