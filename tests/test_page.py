"""The page of a study, as text; in a browser it is tested by `test_page_browser.py`."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser

import pytest

from planner import __version__
from planner.base.record import replace
from planner.catalogue.entries import Catalogue
from planner.report.charts import HeatRow, Mark, Point, Series, escaped, heat_map, legend, line_chart, stacked_bar
from planner.report.page import page
from planner.studies.answer import Answer
from planner.studies.questions import ask
from planner.studies.study import Study, study_of
from planner.studies.sweep import sweep
from planner.studies.verdict import verdict_of

HOSTILE = "</script><script>window.bad=1</script><img src=x onerror='window.bad=2'>\"'&\x1b\u202e"


@pytest.fixture(scope="module")
def study(catalogue: Catalogue) -> Study:
    return study_of(
        {
            "title": f"Title {HOSTILE}",
            "description": f"First line\nSecond {HOSTILE}",
            "models": [{"catalogue": "bamboo-7b", "name": HOSTILE[:80]}, "relu-llama-13b"],
            "quantisations": "Q4_0",
            "hosts": {"catalogue": "ddr5-5600-dual", "memory": "64GiB", "name": HOSTILE[20:80]},
            "gpus": {"catalogue": "rtx-4090", "vram": ["4GiB", "6GiB", "12GiB"], "name": HOSTILE[:60]},
            "contexts": [512, 2048],
            "targets": {"tokens_per_second": 40},
        },
        catalogue,
    )


@pytest.fixture(scope="module")
def html(study: Study) -> str:
    answers = sweep(study.cells, study.catalogue, processes=1)
    return page(study, answers, ask(study, answers, ["cheapest"]))


class Reader(HTMLParser):
    """Collects elements, attributes and what is inside script elements."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))


def elements(html: str) -> list[tuple[str, dict[str, str | None]]]:
    reader = Reader()
    reader.feed(html)
    return reader.elements


def test_names_of_strangers_are_text_and_nothing_else(html: str) -> None:
    found = elements(html)
    assert [tag for tag, _ in found].count("script") == 1
    assert not [tag for tag, _ in found if tag in {"img", "iframe", "object", "embed", "link", "form", "base"}]
    assert not [name for _, attributes in found for name in attributes if name.startswith("on") or name == "style"]
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert "&lt;/script&gt;&lt;script&gt;window.bad=1" in html


def test_nothing_is_fetched_and_only_its_own_script_may_run(html: str) -> None:
    found = elements(html)
    assert not [value for _, attributes in found for name, value in attributes.items() if name in {"src", "href"}]
    policy = next(attributes["content"] for _, attributes in found if attributes.get("http-equiv"))
    assert policy is not None
    assert re.fullmatch(
        r"default-src 'none'; style-src 'sha256-[\w+/]+='; script-src 'sha256-[\w+/]+='; base-uri 'none'; "
        r"form-action 'none'",
        policy,
    )
    assert "url(" not in html
    assert "http://" not in html.replace("http://www.w3.org", "")


def test_equal_studies_give_equal_pages(study: Study, html: str) -> None:
    answers = sweep(study.cells, study.catalogue, processes=1)
    assert page(study, answers, ask(study, answers, ["cheapest"])) == html


def test_what_all_cells_share_is_no_column(html: str) -> None:
    heads = re.findall(r'<th scope="col" data-kind="\w+">([^<\n]+)', html)
    assert heads == ["#", "model", "GPU", "context", "targets", "engine", "hot", "hit rate", "tokens/s", "bound by",
                     "VRAM, GiB", "host, GiB", "+1 GiB", "notes"]  # fmt: skip


def test_every_column_is_explained(html: str) -> None:
    heads = re.findall(r'<th scope="col" data-kind="\w+">([^<\n]+)', html)
    explained = re.findall(r"<div><dt>(.+?)</dt><dd>(.+?)</dd></div>", html)
    assert [name for name, _ in explained] == heads[1:]


def test_prices_are_a_column_where_there_are_any(study: Study) -> None:
    found = sweep(study.cells, study.catalogue, processes=1)
    answers = [replace(answer, price=1234.5 if number else None) for number, answer in enumerate(found)]
    html = page(study, answers, ())
    assert '<th scope="col" data-kind="number">price' in html
    assert html.count("<td>1,234.50<") == len(answers) - 1
    assert html.count("<td>unknown<") >= 1


def test_notes_are_said_once_and_referred_to_by_number(study: Study) -> None:
    found = sweep(study.cells, study.catalogue, processes=1)
    answers = [replace(answer, notes=("same <b>", f"number {number % 2}")) for number, answer in enumerate(found)]
    html = page(study, answers, ())
    assert "<ol>\n<li>same &lt;b&gt;</li>\n<li>number 0</li>\n<li>number 1</li>\n</ol>" in html
    assert html.count("<td>1, 2<") == html.count("<td>1, 3<") == len(answers) // 2


def test_the_footer_says_what_made_the_page(study: Study) -> None:
    html = page(study, (), (), command="hotsplit whatif 'a <b>.yaml'")
    assert (
        f"<footer><dl>\n<dt>made by</dt><dd>Hotsplit {__version__}</dd>\n"
        "<dt>command</dt><dd><code>hotsplit whatif &#x27;a &lt;b&gt;.yaml&#x27;</code></dd>\n"
        "<dt>study</dt><dd><code>study</code></dd>\n</dl></footer>"
    ) in html


def test_thousands_of_cells_are_one_page_of_a_few_megabytes(study: Study) -> None:
    html = page(study, many(study), ())
    assert len(html.encode()) < 6_000_000
    assert html.count("<tr class=") == 10_008
    assert html.count("<circle") < 10_000
    assert "more notes, which are in the JSON" in html


def many(study: Study) -> list[Answer]:
    """Returns 10,008 answers whose contexts and notes differ."""
    answers = sweep(study.cells, study.catalogue, processes=1)
    return [
        replace(answer, context=512 + number, name=f"{answer.name} {number}", notes=(f"note {number}",))
        for number in range(834)
        for answer in answers
    ]


def test_the_page_begins_with_the_verdict_and_how_many_cells_meet_the_targets(study: Study) -> None:
    answers = [replace(answer, model="m") for answer in sweep(study.cells, study.catalogue, processes=1)]
    meeting = sum(answer.meets for answer in answers)
    said = "".join(f"<p>{escaped(sentence, limit=1000)}</p>\n" for sentence in verdict_of(answers).sentences)
    assert (
        f'<div class="verdict">\n{said}</div>\n'
        f"<p>{meeting} of {len(answers)} cells meet the targets: tokens_per_second at least 40.</p>"
    ) in page(study, answers, ())


def test_models_of_one_name_and_different_shapes_share_a_heat_map(catalogue: Catalogue) -> None:
    curve = {"hotness": {"hot_share": 0.26, "activation_share": 0.8}}
    shape = {"architecture": "llama", "n_embd": 1024, "n_head": 8, "n_vocab": 1000}
    models = [
        {"name": "mine", "dimensions": {**shape, "n_layer": 3, "n_ff": 4096}, "statistics": curve},
        {"name": "mine", "dimensions": {**shape, "n_layer": 5, "n_ff": 2048}, "statistics": curve},
    ]
    gpu = {"name": "big", "budget": "8GiB", "bandwidth": 500}
    study = study_of({"models": models, "gpus": gpu, "hosts": {"bandwidth": 50}}, catalogue)
    html = page(study, sweep(study.cells, catalogue, processes=1), ())
    assert re.findall(r'data-layers="(\d)"', html) == ["3", "5"]
    assert "<span>last layer</span>" in html


def test_a_chart_puts_points_where_they_belong() -> None:
    series = [Series("a", (Point(0.0, 0.0, "zero"), Point(10.0, 100.0, "top", name="<b>", hollow=True)))]
    wide, narrow = line_chart("t", series, x_name="x", y_name="y", y_top=100).split("</svg>")[:2]
    # Plot area: x 48..626, y 298..16 of 640 x 340, and x 48..346, y 258..16 of 360 x 300.
    assert '<polyline class="line s0" points="48.0,298.0 626.0,16.0"/>' in wide
    assert '<polyline class="line s0" points="48.0,258.0 346.0,16.0"/>' in narrow
    assert '<circle class="dot s0 ring" cx="626.0" cy="16.0" r="4.5"><title>top</title></circle>' in wide
    assert ">&lt;b&gt;</text>" in wide
    assert "polyline" not in line_chart("t", [replace(series[0], joined=False)], x_name="", y_name="")
    assert "circle" not in line_chart("t", [replace(series[0], dots=False)], x_name="", y_name="")


def test_a_target_is_a_named_line() -> None:
    series = [Series("a", (Point(0.0, 0.0, "zero"), Point(10.0, 5.0, "top")))]
    marks = [Mark(50.0, "target: 50 <i>"), Mark(5.0, "budget", upright=True)]
    svg = line_chart("t", series, x_name="x", y_name="y", y_top=100, marks=marks).split("</svg>")[0]
    assert '<line class="mark" x1="48.0" x2="626.0" y1="157.0" y2="157.0"/>' in svg
    assert '<line class="mark" x1="337.0" x2="337.0" y1="16.0" y2="298.0"/>' in svg
    assert ">target: 50 &lt;i&gt;</text>" in svg
    # A target above all dots is still on the chart.
    svg = line_chart("t", series, x_name="x", y_name="y", marks=[Mark(30.0, "far")]).split("</svg>")[0]
    assert '<line class="mark" x1="48.0" x2="626.0" y1="16.0" y2="16.0"/>' in svg


def test_a_legend_names_lines_by_colour_and_then_by_dashes() -> None:
    one = Series("a", (Point(0.0, 0.0, "zero"),))
    assert legend([one]) == ""
    assert legend([one, replace(one, name="<b>")]).count("<li>") == 2
    assert "<b>" not in legend([one, replace(one, name="<b>")])
    assert legend([one], rings="misses").count("<li>") == 1
    many_lines = legend([one] * 17)
    assert [many_lines.count(f'class="line s0{dash}"') for dash in ("", " d1", " d2")] == [1, 1, 1]


def test_an_empty_chart_is_a_chart() -> None:
    assert line_chart("t", [], x_name="x", y_name="y").startswith("<svg")
    assert heat_map("t", [], first="a", last="b", end="c").startswith("<table")
    assert stacked_bar("t", []).startswith("<svg")


def test_a_heat_map_has_a_named_row_with_a_square_for_each_layer_and_averages_thousands() -> None:
    html = heat_map("t", [HeatRow("row <1>", (0.0, 0.5, 1.0), "50.0%")], first="layer 0", last="layer 2", end="hot")
    strip = html[html.index("<tbody>") : html.index("</tbody>")]
    assert strip.count("<rect") == 2
    assert '<rect x="1" width="1" height="1" fill-opacity="0.5"/>' in strip
    assert '<th scope="row">row &lt;1&gt;</th>' in strip
    assert "<td>50.0%</td>" in strip
    assert "<span>layer 2</span>" in html
    assert html.count("<rect") == 2 + 11  # the scale has eleven steps
    experts = heat_map("t", [HeatRow("row", (1.0, 0.0) * 960, "")], first="", last="", end="")
    strip = experts[experts.index("<tbody>") : experts.index("</tbody>")]
    assert strip.count("<rect") == 128
    assert 'fill-opacity="0.5' in strip


def test_a_bar_is_divided_by_size() -> None:
    bar = stacked_bar("t", [("p0", 3.0, "three"), ("p1", 0.0, "none"), ("p2", 1.0, "<one>")])
    assert re.findall(r'<rect class="(p\d)" x="([\d.]+)" width="([\d.]+)"', bar) == [
        ("p0", "0.00", "750.00"),
        ("p2", "750.00", "250.00"),
    ]
    assert "<title>&lt;one&gt;</title>" in bar


def test_long_numbers_of_an_axis_keep_apart() -> None:
    series = [Series("a", (Point(0.0, 0.0, "zero"), Point(0.000117, 1.0, "top")))]
    narrow = line_chart("t", series, x_name="x", y_name="y").split("</svg>")[1]
    ticks = re.findall(r'<text class="tick" x="([\d.]+)" y="274" text-anchor="(\w+)">([^<]+)<', narrow)
    spans = []
    for x, anchor, text in ticks:
        wide = 6.2 * len(text)  # of 12 pixels
        spans.append((float(x) - wide * {"middle": 0.5, "end": 1.0}[anchor], wide))
    assert len(spans) > 1
    assert all(left + wide < following for (left, wide), (following, _) in itertools.pairwise(spans))
