"""Names beside the dots of a chart: inside it, on nothing else, as many as have room."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from planner.report.dot_labels import Box, box_of, placed_labels, text_width

INSIDE = Box(50, 2, 638, 297)
RADIUS = 4.5

dots = st.lists(
    st.tuples(st.floats(50, 630), st.floats(10, 290), st.sampled_from(["", "rtx-4090", "W" * 24, "漢字", "i"])),
    max_size=40,
)
boxes = st.lists(
    st.builds(lambda x, y, w, h: Box(x, y, x + w, y + h), *[st.floats(0, 600), st.floats(0, 300)] * 2), max_size=4
)


def apart(one: Box, other: Box) -> bool:
    return one.right <= other.left or other.right <= one.left or one.bottom <= other.top or other.bottom <= one.top


@given(dots=dots, taken=boxes, avoided=boxes)
def test_no_name_covers_anything_or_leaves_the_chart(
    dots: list[tuple[float, float, str]], taken: list[Box], avoided: list[Box]
) -> None:
    labels = placed_labels(dots, INSIDE, taken, radius=RADIUS, avoided=avoided)
    for label in labels:
        box = label.box
        assert INSIDE.left <= box.left < box.right <= INSIDE.right
        assert INSIDE.top <= box.top < box.bottom <= INSIDE.bottom
        assert all(apart(box, other) for other in taken)
        assert all(apart(box, Box(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS)) for x, y, _ in dots)
    assert all(apart(one.box, other.box) for one, other in itertools.combinations(labels, 2))


def test_a_name_alone_stands_beside_its_dot() -> None:
    (label,) = placed_labels([(100, 100, "rtx-4090")], INSIDE, [], radius=RADIUS)
    assert (label.text, label.x, label.y, label.anchor, label.far) == ("rtx-4090", 107, 104, "start", False)
    # At the right edge there is room on the left or above only.
    (label,) = placed_labels([(630, 100, "rtx-4090")], INSIDE, [], radius=RADIUS)
    assert (label.x, label.anchor) == (623, "end")


def test_a_name_keeps_off_lines_where_it_can_and_stands_on_them_where_it_must() -> None:
    right = box_of("rtx-4090", 107, 104, "start")
    (label,) = placed_labels([(100, 100, "rtx-4090")], INSIDE, [], radius=RADIUS, avoided=[right])
    assert apart(label.box, right)
    (label,) = placed_labels([(100, 100, "rtx-4090")], INSIDE, [], radius=RADIUS, avoided=[INSIDE])
    assert label.x == 107


def test_a_name_without_room_is_left_out() -> None:
    assert placed_labels([(100, 100, "rtx-4090")], INSIDE, [INSIDE], radius=RADIUS) == []


def test_a_crowd_is_named_farther_away_with_a_line_to_its_dot() -> None:
    crowd = [(300.0, 150.0 + shift, f"name {shift}") for shift in range(6)]
    labels = placed_labels(crowd, INSIDE, [], radius=RADIUS)
    assert len(labels) == 6
    assert any(label.far for label in labels)
    assert all(label.far == (abs(label.y - label.dot_y) > 20) for label in labels)


def test_wide_letters_are_wide() -> None:
    assert text_width("漢字") > text_width("ii")
    assert text_width("WW") > text_width("ii")
    assert text_width("") == 0
