"""The table of a study's cells on its page: columns, what they mean, and the rules that show them on any screen.

Thousands of rows are one page of a few megabytes, so a row holds its text and nothing else: what belongs to a column
(its name on a card, its alignment) is said once, as a rule for the column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from planner.base.record import Record
from planner.base.units import GIB
from planner.report.charts import escaped
from planner.report.whatif import AXES, points, verdict_words
from planner.studies.answer import Answer

_MAX_NOTES = 200
# Pixels of a letter and of the space around it, at the size of the table.
_LETTER, _SPACE = 8.0, 15
# A name of a GPU, a model or a host that is longer is broken into lines.
_MAX_NAME = 24


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
    text: Callable[[Answer], str]
    kind: str = "number"


_AXIS_MEANINGS = {
    "scenario": "the base of the study, or one of its overrides",
    "model": "the model",
    "quantisation": "how many bits the weights have",
    "GPU": "the graphics card, with its memory where that varies",
    "host": "the computer around it: its memory and how fast that is",
    "context": "tokens of conversation that are kept, in the KV cache",
    "solver": "what proved that no placement is better",
}


def cell_table(answers: Sequence[Answer]) -> tuple[list[str], str]:
    """Returns the section with the table as lines of HTML, and the rules that it needs in the page's style."""
    columns = _columns(answers)
    notes = _Notes(answers)
    if notes.numbers:
        columns.append(Column("notes", "numbers of the notes below the table", notes.of, "words"))
    rows = [[column.text(answer) for column in columns] for answer in answers]
    return list(_section(columns, rows, answers, notes)), _rules(columns, rows)


def _columns(answers: Sequence[Answer]) -> list[Column]:
    """Returns the columns: first what a cell is called and whether it is good enough, then the figures."""
    columns = [
        Column(name, _AXIS_MEANINGS[name], of, "axis")
        for name, of in AXES
        if len({of(answer) for answer in answers}) > 1
    ]
    if any(answer.verdict for answer in answers):
        columns.append(Column("targets", "whether all targets are met, and which are missed", verdict_words, "verdict"))
    if any(answer.price is not None for answer in answers):
        columns.append(Column("price", "of the GPU, in the currency of the study", _price))
    columns += [
        Column("engine", "what the engine does with the model", lambda answer: answer.path.words, "words"),
        Column("hot", "share of all neurons that are on the GPU", _hot),
        Column("hit rate", "share of all recorded activations that these neurons make", _hit_rate),
        Column("tokens/s", "estimated decode speed of one conversation, and its range where inputs are assumed", _speed),
        Column("bound by", "what most of a token's time goes to", _bound, "words"),
        Column("VRAM, GiB", "expected to be in use, with what the engine takes uncharged", _vram),
        Column("host, GiB", "host memory in use", lambda answer: f"{answer.bytes.host / GIB:.1f}"),
        Column("+1 GiB", "what one more GiB of VRAM would add to the hit rate, in percentage points", _next_gib),
    ]
    return columns


def _price(answer: Answer) -> str:
    return "unknown" if answer.price is None else f"{answer.price:,.2f}".removesuffix(".00")


def _hot(answer: Answer) -> str:
    return f"{answer.hot_neurons / answer.neurons:.1%}" if answer.neurons else "0.0%"


def _hit_rate(answer: Answer) -> str:
    return "–" if answer.hit_rate is None else f"{answer.hit_rate:.1%}"


def _unknown(answer: Answer) -> str:
    return "–" if answer.hit_rate is None else "unknown"


def _speed(answer: Answer) -> str:
    speed = answer.speed
    if speed is None:
        return _unknown(answer)
    slow, fast = f"{speed.slow_tokens_per_s:.1f}", f"{speed.fast_tokens_per_s:.1f}"
    return f"{speed.tokens_per_s:.1f}" + ("" if slow == fast else f" ({slow} to {fast})")


def _bound(answer: Answer) -> str:
    return _unknown(answer) if answer.speed is None else answer.speed.bound.value


def _vram(answer: Answer) -> str:
    return f"{answer.bytes.vram / GIB:.1f}"


def _next_gib(answer: Answer) -> str:
    return _unknown(answer) if answer.next_gib is None else points(answer.next_gib.hit_rate).removesuffix(" points")


class _Notes:
    """The distinct notes of all cells with their numbers, in the order in which they first appear."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        distinct = dict.fromkeys(note for answer in answers for note in answer.notes)
        self.numbers = {note: number for number, note in enumerate(list(distinct)[:_MAX_NOTES], 1)}
        self.hidden = len(distinct) - len(self.numbers)

    def of(self, answer: Answer) -> str:
        """Returns the numbers of a cell's notes; `*` stands for those that are not listed."""
        return ", ".join(str(self.numbers.get(note, "*")) for note in answer.notes)


def _section(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], answers: Sequence[Answer], notes: _Notes
) -> Iterator[str]:
    yield '<section id="all"><h2>All cells</h2>'
    yield '<div class="scroll"><table id="cells"><thead><tr><th scope="col" data-kind="number">#'
    yield "".join(f'<th scope="col" data-kind="{column.kind}">{escaped(column.name)}' for column in columns)
    yield "<tbody>"
    # End tags that HTML lets be left out are: they would be a tenth of the page.
    lines = []
    for number, (row, answer) in enumerate(zip(rows, answers, strict=True), 1):
        cells = "".join(f"<td>{escaped(text)}" for text in row)
        lines.append(f"<tr{f' class={answer.verdict}' if answer.verdict else ''}><td>{number}{cells}")
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
        # Names of columns are words of this module, never of a file.
        labels.append(f'#cells td:nth-child({place + 2})::before{{content:"{column.name}"}}')

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
        f'#cells td:nth-child({place})::before{{content:"{columns[place - 2].name} ";display:inline}}'
        for place in places.get("axis", [])
    )
    cards += rule("verdict", "display:block;width:auto")
    cards += "".join(f"#cells td:nth-child({place})::before{{content:none}}" for place in places.get("verdict", []))
    limit = int(needed) + 60
    # A sheet of A4 or letter on its side is about 1,000 pixels wide, at three quarters of the letters' size.
    printed = ", print" if needed * 0.75 > 960 else ""
    return f"{table}\n@media screen and (max-width: {limit}px){printed} {{\n{_CARDS}{cards}\n}}\n"


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
