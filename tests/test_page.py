"""The page of a study: as text, and in a real browser where there is one."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from planner.catalogue.entries import Catalogue
from planner.report.charts import Series, heat_map, legend, line_chart
from planner.report.page import page
from planner.studies.questions import ask
from planner.studies.study import Study, study_of
from planner.studies.sweep import sweep

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
    heads = re.findall(r'<th scope="col"><button type="button">([^<]+)</button></th>', html)
    assert heads == ["#", "model", "GPU", "context", "engine", "hot", "hit rate", "tokens/s", "bound by", "VRAM",
                     "host memory", "+1 GiB", "targets"]  # fmt: skip


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
    assert html.count('class="hot"') == 3 + 5
    assert "layer 4</text>" in html


def test_a_chart_puts_points_where_they_belong() -> None:
    series = [Series("a", ((0.0, 0.0, "zero"), (10.0, 100.0, "top")))]
    svg = line_chart("t", series, x_name="x", y_name="y", y_top=100)
    # Plot area: x 52..628, y 280..12 of 640 x 320.
    assert '<polyline class="line s0" points="52.0,280.0 628.0,12.0"/>' in svg
    assert "<title>top</title>" in svg
    assert "polyline" not in line_chart("t", [Series("a", series[0].points, joined=False)], x_name="", y_name="")
    assert legend(series) == ""
    assert legend([*series, Series("<b>", ())]).count("<li>") == 2
    assert "<b>" not in legend([*series, Series("<b>", ())])


def test_an_empty_chart_is_a_chart() -> None:
    assert line_chart("t", [], x_name="x", y_name="y").startswith("<svg")
    assert heat_map("t", []).startswith("<svg")


def test_a_heat_map_has_a_square_for_each_layer_and_averages_thousands() -> None:
    svg = heat_map("t", [("row <1>", [0.0, 0.5, 1.0])])
    assert svg.count('class="hot"') == 2
    assert 'fill-opacity="0.500"' in svg
    assert "<title>row &lt;1&gt;: 50.0% of the neurons are hot</title>" in svg
    assert ">layer 2<" in svg
    experts = heat_map("t", [("row", [1.0, 0.0] * 960)])
    assert experts.count('class="hot"') == 128
    assert 'fill-opacity="0.5' in experts


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser without a window; the tests that need one skip themselves where it or its driver is missing."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary = next(
        (found for name in ("chromium", "google-chrome", "chromium-browser") if (found := shutil.which(name))), None
    )
    driver_binary = shutil.which("chromedriver")
    if binary is None or driver_binary is None:
        pytest.skip("no Chromium with chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_binary))
    yield driver
    driver.quit()


def shown(browser: Any, html: str, folder: Path, *, width: int, dark: bool = False) -> Any:
    file = folder / "page.html"
    file.write_text(html, "utf-8")
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.get(file.as_uri())
    return browser


def column(browser: Any, number: int) -> list[str]:
    script = (
        "return Array.from(document.querySelectorAll('#cells tbody tr'), row => row.cells[arguments[0]].textContent)"
    )
    found: list[str] = browser.execute_script(script, number)
    return found


def test_in_a_browser_names_do_nothing_and_nothing_is_logged(browser: Any, html: str, tmp_path: Path) -> None:
    page_shown = shown(browser, html, tmp_path, width=1200)
    assert page_shown.execute_script("return window.bad") is None
    assert [entry["message"] for entry in page_shown.get_log("browser")] == []
    assert page_shown.execute_script("return document.querySelectorAll('svg.chart').length") == 4
    assert page_shown.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_in_a_browser_the_table_sorts_by_number_and_by_word(browser: Any, html: str, tmp_path: Path) -> None:
    page_shown = shown(browser, html, tmp_path, width=1200)
    heads = page_shown.find_elements("css selector", "#cells th button")
    rate = [head.text for head in heads].index("tokens/s")
    before = column(page_shown, rate)
    heads[rate].click()
    assert column(page_shown, rate) == sorted(before, key=float, reverse=True)
    heads[rate].click()
    assert column(page_shown, rate) == sorted(before, key=float)
    assert heads[rate].find_element("xpath", "..").get_attribute("aria-sort") == "ascending"
    heads[4].click()
    assert column(page_shown, 4) == sorted(column(page_shown, 4))
    heads[0].click()
    assert column(page_shown, 0) == [str(number) for number in range(1, 13)]


def test_in_a_browser_a_phone_needs_no_sideways_scrolling(browser: Any, html: str, tmp_path: Path) -> None:
    page_shown = shown(browser, html, tmp_path, width=360)
    widths = page_shown.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert widths[0] <= widths[1]
    label = "return getComputedStyle(document.querySelector('#cells td'), '::before').content"
    assert page_shown.execute_script(label) == '"#"'
    page_shown.execute_script(
        "const s = document.getElementById('sort'); s.value = '7'; s.dispatchEvent(new Event('change'))"
    )
    assert column(page_shown, 7) == sorted(column(page_shown, 7), key=float, reverse=True)


@pytest.mark.parametrize("dark", [False, True])
def test_in_a_browser_text_stands_out_by_day_and_by_night(browser: Any, html: str, tmp_path: Path, dark: bool) -> None:
    page_shown = shown(browser, html, tmp_path, width=1200, dark=dark)
    script = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
    text, back = (luminance(colour) for colour in page_shown.execute_script(script))
    assert (back < 0.1) is dark
    assert (max(text, back) + 0.05) / (min(text, back) + 0.05) > 7  # WCAG 2.2, level AAA
    quiet = luminance(page_shown.execute_script("return getComputedStyle(document.querySelector('.quiet')).color"))
    assert (max(quiet, back) + 0.05) / (min(quiet, back) + 0.05) > 4.5


def luminance(colour: str) -> float:
    """Returns the relative luminance of `rgb(r, g, b)` (WCAG 2.2)."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
