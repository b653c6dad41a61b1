"""The table of a study's cells on its page: columns, what they mean, and the rules that show them on any screen.

Thousands of rows are one page of a few megabytes, so a row holds its text and nothing else: what belongs to a column
(its name on a card, its alignment) is said once, as a rule for the column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from planner.base.record import Record
from planner.base.text import printable
from planner.report.charts import escaped

_MAX_NOTES = 200
# Pixels of a letter and of the space around it, at the size of the table.
_LETTER, _SPACE = 8.0, 15
# A name of a GPU, a model or a host that is longer is broken into lines.
_MAX_NAME = 24


class Judged(Protocol):
    """An answer of a study of any kind: `verdict` is `meets`, `misses` or, without targets, nothing."""

    @property
    def verdict(self) -> str:
        """See the class."""
        ...


CellAnswer = TypeVar("CellAnswer", bound=Judged)


class Column(Record):
    """One column.

    Attributes:
        name: its heading.
        meaning: what it says, in a sentence for people who have never heard of it.
        text: the text of a cell.
        kind: `axis` (what a cell is called), `verdict`, `number` or `words`.
    """

    name: str
    meaning: str
    text: Callable[[Any], str]
    kind: str = "number"


def cell_table(
    columns: Sequence[Column], answers: Sequence[CellAnswer], notes_of: Callable[[CellAnswer], Sequence[str]]
) -> tuple[list[str], str]:
    """Returns the section with the table as lines of HTML, and the rules that it needs in the page's style.

    Args:
        columns: first what a cell is called and whether it is good enough, then the figures.
        answers: a row each.
        notes_of: what a reader of one answer should know; said once below the table, and referred to by number.
    """
    notes = _Notes(answers, notes_of)
    if notes.numbers:
        columns = [*columns, Column("notes", "numbers of the notes below the table", notes.of, "words")]
    rows = [[column.text(answer) for column in columns] for answer in answers]
    return list(_section(columns, rows, [answer.verdict for answer in answers], notes)), _rules(columns, rows)


class _Notes(Generic[CellAnswer]):
    """The distinct notes of all cells with their numbers, in the order in which they first appear."""

    def __init__(self, answers: Sequence[CellAnswer], notes_of: Callable[[CellAnswer], Sequence[str]]) -> None:
        self._notes_of = notes_of
        distinct = dict.fromkeys(note for answer in answers for note in notes_of(answer))
        self.numbers = {note: number for number, note in enumerate(list(distinct)[:_MAX_NOTES], 1)}
        self.hidden = len(distinct) - len(self.numbers)

    def of(self, answer: CellAnswer) -> str:
        """Returns the numbers of a cell's notes; `*` stands for those that are not listed."""
        return ", ".join(str(self.numbers.get(note, "*")) for note in self._notes_of(answer))


def _section(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], verdicts: Sequence[str], notes: _Notes[CellAnswer]
) -> Iterator[str]:
    yield '<section id="all"><h2>All cells</h2>'
    yield '<div class="scroll"><table id="cells"><thead><tr><th scope="col" data-kind="number">#'
    yield "".join(f'<th scope="col" data-kind="{column.kind}">{escaped(column.name)}' for column in columns)
    yield "<tbody>"
    # End tags that HTML lets be left out are: they would be a tenth of the page.
    lines = []
    for number, (row, verdict) in enumerate(zip(rows, verdicts, strict=True), 1):
        cells = "".join(f"<td>{escaped(text)}" for text in row)
        lines.append(f"<tr{f' class={verdict}' if verdict else ''}><td>{number}{cells}")
    # Nothing between two rows, so that an empty cell is empty.
    yield "".join(lines) + "</table></div>"
    if notes.numbers:
        yield "<h3>Notes</h3><ol>"
        yield from (f"<li>{escaped(note)}</li>" for note in notes.numbers)
        yield "</ol>"
        if notes.hidden:
            yield f"<p>* is one of {notes.hidden:,} more notes, which are in the JSON.</p>"
    yield '<h3>What the columns say</h3><dl class="columns">'
    yield from (f"<div><dt>{escaped(each.name)}</dt><dd>{escaped(each.meaning)}</dd></div>" for each in columns)
    yield "</dl></section>"


def _rules(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    """Returns the style of the columns, and up to which width of the screen rows are shown as cards."""
    needed = _SPACE + _LETTER * len(str(len(rows)))
    places: dict[str, list[int]] = {}
    labels, unbroken = [], list[int]()
    for place, column in enumerate(columns):
        places.setdefault(column.kind, []).append(place + 2)
        longest = max((len(row[place]) for row in rows), default=0)
        if column.kind == "axis":
            whole = longest <= _MAX_NAME
            unbroken += [place + 2] * whole
            longest = longest if whole else _MAX_NAME
        elif column.kind != "number":
            longest = max((len(word) for text in {row[place] for row in rows} for word in text.split()), default=0)
        # A heading breaks between its words, and has room for the arrow of the order.
        longest = max(longest, *(len(word) + 2 for word in column.name.split()))
        needed += _SPACE + _LETTER * longest
        labels.append(f'#cells td:nth-child({place + 2})::before{{content:"{_css_text(column.name)}"}}')

    def cells(kind: str) -> str:
        return ",".join(
            f"#cells td:nth-child({place})" for place in [*places.get(kind, []), *([1] * (kind == "number"))]
        )

    def rule(kind: str, body: str) -> str:
        return f"{cells(kind)}{{{body}}}" if cells(kind) else ""

    table = rule("number", "text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums")
    table += rule("verdict", "font-weight:600") + rule("axis", "overflow-wrap:anywhere")
    table += "".join(f"#cells td:nth-child({place}){{white-space:nowrap}}" for place in unbroken)
    for verdict in ("meets", "misses"):
        table += "".join(
            f"#cells tr.{verdict} td:nth-child({place}){{color:var(--{verdict})}}"
            for place in places.get("verdict", [])
        )
    cards = "".join(labels) + rule("number", "text-align:left")
    cards += rule("axis", "display:block;width:auto;font-weight:600")
    cards += "".join(
        f'#cells td:nth-child({place})::before{{content:"{_css_text(columns[place - 2].name)} ";display:inline}}'
        for place in places.get("axis", [])
    )
    cards += rule("verdict", "display:block;width:auto")
    cards += "".join(f"#cells td:nth-child({place})::before{{content:none}}" for place in places.get("verdict", []))
    limit = int(needed) + 60
    # A sheet of A4 or letter on its side is about 1,000 pixels wide, at three quarters of the letters' size.
    printed = ", print" if needed * 0.75 > 960 else ""
    return f"{table}\n@media screen and (max-width: {limit}px){printed} {{\n{_CARDS}{cards}\n}}\n"


def _css_text(name: str) -> str:
    """Returns a name as the inside of a CSS string, whatever is in it: names may come from files.

    All but ASCII letters and digits and a few harmless signs are escaped by their numbers (CSS Syntax 3, 4.3.7).
    """
    plain = " ,/+%"
    return "".join(
        each if each in plain or (each.isascii() and each.isalnum()) else f"\\{ord(each):x} "
        for each in printable(name, limit=200)
    )


_CARDS = """\
  .scroll { border: 0; }
  #cells, #cells tbody { display: block; }
  #cells thead { display: none; }
  #cells tbody { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); gap: .75rem; }
  #cells tr { display: block; border: 1px solid var(--rule); border-radius: 8px; padding: .5rem .75rem; }
  #cells td { display: inline-block; width: 50%; border: 0; padding: .15rem .25rem .15rem 0; vertical-align: top;
    white-space: normal; }
  #cells td::before { display: block; font-size: .8rem; font-weight: 400; color: var(--quiet); }
  #cells td:empty { display: none; }
  #cells td:first-child { float: right; width: auto; color: var(--quiet); }
  #cells td:first-child::before { content: "#"; display: inline; }
"""
