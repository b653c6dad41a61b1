"""The pages in a real browser: nothing cut off, nothing overlapping, by day, by night and on paper.

One browser serves all tests, which skip themselves where there is none.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from exporter.__main__ import main
from planner.base.record import replace
from planner.catalogue.entries import Catalogue
from planner.config.yaml_file import read_yaml
from planner.planning import PlanRequest, make_plan
from planner.report.expert_study_page import expert_page
from planner.report.page import page
from planner.report.plan_page import plan_page
from planner.studies.experts_evaluator import ExpertEvaluator
from planner.studies.experts_questions import ask_experts
from planner.studies.experts_study import expert_study
from planner.studies.questions import ask
from planner.studies.study import study_of
from planner.studies.sweep import sweep
from tests import model_files
from tests.test_expert_planning import CODE, MOE, PROSE, counts_file
from tests.test_expert_study import CACHE, EXPERT, REST

HOSTILE = "</script><script>window.bad=1</script><img src=x onerror='window.bad=2'>\"'&\x1b\u202e"
PAGES = ("plain", "hostile", "plan", "expert names", "expert study", "expert plan")
WIDTHS = (360, 390, 768, 1280, 1920, 2560)
PAPER_WIDTH = 1000  # a sheet of A4 or letter on its side, in CSS pixels, less its margins
NO_BROWSER = "no Chromium with chromedriver and selenium on this machine"


@pytest.fixture(scope="module")
def pages(catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Returns the files of the pages: studies plain, of hostile names, of thousands of cells; plans of each kind."""
    folder = tmp_path_factory.mktemp("pages")
    gpus = ["rtx-4060", "rtx-3060-12gb", "rtx-4060-ti-16gb", "rtx-5080", "rtx-3090", "rtx-4090", "rtx-a6000", "l40s"]
    plain = study_of(
        {
            "title": "Which GPU",
            "models": "relu-llama-70b",
            "quantisations": "Q4_0",
            "hosts": "ddr5-5600-dual",
            "gpus": [{"catalogue": name, "price": 500 + 100 * place} for place, name in enumerate(gpus)],
            "contexts": 2048,
            "targets": {"tokens_per_second": 10, "hit_rate": 0.5},
        },
        catalogue,
    )
    hostile = study_of(
        {
            "title": f"Title {HOSTILE}",
            "description": f"First line\nSecond {HOSTILE}",
            "models": [
                {"catalogue": "bamboo-7b", "name": HOSTILE[:80]},
                {"catalogue": "relu-llama-13b", "name": "W" * 80},
            ],
            "quantisations": ["Q4_0", "F16"],
            "hosts": [{"catalogue": "ddr5-5600-dual", "memory": "64GiB", "name": HOSTILE[20:80]}, "pc-low"],
            "gpus": [
                {"catalogue": "rtx-4090", "name": HOSTILE[:60], "price": 1234.5},
                {"catalogue": "rtx-3090", "name": "漢字" * 20},
                {"catalogue": "rtx-5090", "name": "x" * 70},
            ],
            "contexts": [512, 2048],
            "targets": {"tokens_per_second": 40, "hit_rate": 0.9, "vram": "20GiB"},
            "overrides": {"y" * 60: {"contexts": 1024}},
        },
        catalogue,
    )
    answers_plain = sweep(plain.cells, catalogue, processes=1)
    answers_hostile = sweep(hostile.cells, catalogue, processes=1)
    many = [
        replace(answer, context=512 + number, notes=(f"note {number}",))
        for number in range(1251)
        for answer in answers_plain
    ]
    (folder / "activation").mkdir()
    for layer in range(3):
        torch.save(torch.arange(96) + layer, folder / "activation" / f"activation_{layer}.pt")
    model = model_files.llama(n_layer=3, n_ff=96).write(folder / "m.powerinfer.gguf")
    whole = make_plan(PlanRequest(model=model, vram_budget_bytes=1 << 30))
    text = {
        **expert_pages(folder),
        "plain": page(plain, answers_plain, ask(plain, answers_plain, ["cheapest"]), command="hotsplit whatif a.yaml"),
        "hostile": page(hostile, answers_hostile, ask(hostile, answers_hostile, ["cheapest"]), command=HOSTILE),
        "many": page(plain, many, ()),
        "plan": plan_page(whole, command="hotsplit plan --html plan.html"),
    }
    for name, html in text.items():
        (folder / f"{name}.html").write_text(html, "utf-8")
    return {name: folder / f"{name}.html" for name in text}


def expert_pages(folder: Path) -> dict[str, str]:
    """Returns the pages of a study of experts with names from anywhere, of a shipped one, and of a plan of experts."""
    counts_file(folder / "code.csv", CODE)
    counts_file(folder / "prose.csv", PROSE)
    of_files = folder / "experts.yaml"
    budgets = [name_bytes(number) for number in (1, 5, 12)]
    of_files.write_text(
        json.dumps(
            {
                "title": f"T {HOSTILE}",
                "engine": ["ktransformers", "hot-cache"],
                "models": {
                    "file": str(MOE / "hf/qwen3_moe"),
                    "name": HOSTILE[:80],
                    "statistics": [
                        {"name": HOSTILE[:40], "files": "code.csv"},
                        {"name": "}</style>*{display:none}", "files": "prose.csv"},
                    ],
                },
                "gpus": [
                    {"name": "card " + "x" * 50, "budget": budgets, "price": 1234.5},
                    {"name": "other", "budget": budgets[1:]},
                ],
                "contexts": [16, 32],
                "reserve": {"total": "0B"},
                "targets": {"covered": 0.5},
            }
        )
    )
    shipped = Path(__file__).parent.parent / "configs/which-gpu-for-experts.yaml"
    found = {}
    for name, file in {"expert names": of_files, "expert study": shipped}.items():
        loaded = expert_study(file, read_yaml(file))
        evaluator = ExpertEvaluator()
        answers = [evaluator.answer(cell) for cell in loaded.cells]
        replies = ask_experts(loaded, answers, ["least-vram"], evaluator)
        found[name] = expert_page(loaded, answers, replies, command=f"hotsplit whatif {file.name} --html page.html")
    made = folder / "made.html"
    options = ["--engine", "ktransformers", "--model", MOE / "hf/qwen3_moe", "--context", 16, "--reserve", "0B"]
    options += ["--statistics", folder / "code.csv", "--tried-on", folder / "prose.csv"]
    options += ["--vram-budget", name_bytes(5), "--html", made]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert main(["plan", *map(str, options)]) == 0
    found["expert plan"] = made.read_text("utf-8")
    return found


def name_bytes(number: int) -> str:
    """Returns the budget for so many experts of the model of `tests.test_expert_study`."""
    return f"{REST + CACHE + number * EXPERT}B"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser without a window."""
    webdriver = pytest.importorskip("selenium.webdriver", reason=NO_BROWSER)
    binary = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
    driver_binary = shutil.which("chromedriver")
    if binary is None or driver_binary is None:
        pytest.skip(NO_BROWSER)
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_binary))
    try:
        driver.set_script_timeout(120)
        yield driver
    finally:
        driver.quit()


def shown(browser: Any, file: Path, *, width: int, dark: bool = False, paper: bool = False, script: bool = True) -> Any:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print" if paper else "", "features": [scheme]})
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not script})
    browser.get(file.as_uri())
    return browser


# What is wrong with how a page is laid out, in words. Text for screen readers alone is not looked at.
FAULTS = """
const faults = [];
const say = (element, what) => faults.push(`${element.tagName} ${element.className.baseVal ?? element.className}: ` +
  `${what}: ${element.textContent.trim().slice(0, 40)}`);
const wide = document.documentElement.clientWidth;
if (document.documentElement.scrollWidth > wide) faults.push(`page: ${document.documentElement.scrollWidth} > ${wide}`);
const seen = (element) => element.getClientRects().length > 0 && element.closest(".unseen") === null;
for (const element of document.body.querySelectorAll("*")) {
  if (!seen(element) || element.closest("svg") !== null && element.tagName !== "svg") continue;
  const box = element.getBoundingClientRect();
  if (box.left < -0.5 || box.right > wide + 0.5) say(element, `outside the page (${box.left} to ${box.right})`);
  const inline = (one) => getComputedStyle(one).display === "inline";
  if (element.tagName !== "svg" && !inline(element) && element.clientWidth > 0 &&
      element.scrollWidth > element.clientWidth + 1) {
    say(element, `cut off (${element.scrollWidth} > ${element.clientWidth})`);
  }
  const outer = element.parentElement.getBoundingClientRect();
  if (!inline(element.parentElement) && (box.left < outer.left - 1 || box.right > outer.right + 1)) {
    say(element, `outside its ${element.parentElement.tagName}`);
  }
}
for (const svg of document.querySelectorAll("svg.chart")) {
  if (!seen(svg)) continue;
  const frame = svg.getBoundingClientRect();
  const across = (a, b) => a.left < b.right - 0.5 && b.left < a.right - 0.5;
  const meets = (a, b) => across(a, b) && a.top < b.bottom - 0.5 && b.top < a.bottom - 0.5;
  const texts = Array.from(svg.querySelectorAll("text"), (text) => [text, text.getBoundingClientRect()]);
  texts.forEach(([text, box], place) => {
    if (box.left < frame.left - 0.5 || box.right > frame.right + 0.5 || box.top < frame.top - 0.5 ||
        box.bottom > frame.bottom + 0.5) say(text, "outside its chart");
    for (const [other, its] of texts.slice(place + 1)) if (meets(box, its)) say(text, `over ${other.textContent}`);
    if (!text.matches(".label")) return;
    for (const dot of svg.querySelectorAll("circle")) {
      if (meets(box, dot.getBoundingClientRect())) say(text, "over a dot");
    }
  });
}
return faults;
"""


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_off_and_nothing_overlaps_on_any_screen(
    browser: Any, pages: dict[str, Path], name: str, width: int
) -> None:
    assert shown(browser, pages[name], width=width).execute_script(FAULTS) == []


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_cut_off_on_paper(browser: Any, pages: dict[str, Path], name: str) -> None:
    sheet = shown(browser, pages[name], width=PAPER_WIDTH, dark=True, paper=True)
    assert sheet.execute_script(FAULTS) == []
    # Paper is white, and nothing that only a screen can use is on it.
    assert sheet.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    hidden = "return Array.from(document.querySelectorAll('.tools, .more, .details'), e => e.getClientRects().length)"
    assert set(sheet.execute_script(hidden)) <= {0}


def test_a_page_prints_to_pdf_with_every_row(browser: Any, pages: dict[str, Path]) -> None:
    screen = shown(browser, pages["many"], width=1280)
    rows = "return document.querySelectorAll('#cells tbody tr').length"
    assert screen.execute_script(rows) == 100
    assert screen.execute_script(f"dispatchEvent(new Event('beforeprint')); {rows}") == 10_008
    assert screen.execute_script(f"dispatchEvent(new Event('afterprint')); {rows}") == 100
    printed = shown(browser, pages["plain"], width=1280).execute_cdp_cmd("Page.printToPDF", {})
    assert printed["data"].startswith("JVBERi0")  # %PDF-


@pytest.mark.parametrize("width", WIDTHS)
def test_the_last_column_is_seen(browser: Any, pages: dict[str, Path], width: int) -> None:
    last = """
    const cells = Array.from(document.querySelectorAll('#cells tbody tr'), row => row.cells[row.cells.length - 2]);
    const box = (cell) => cell.getBoundingClientRect();
    return cells.map(cell => [box(cell).left, box(cell).right, cell.textContent]);
    """
    boxes = shown(browser, pages["plain"], width=width).execute_script(last)
    assert len(boxes) == 8
    assert all(0 <= left < right <= width and text for left, right, text in boxes)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", ["plain", "plan", "expert study", "expert plan"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_no_violation(browser: Any, pages: dict[str, Path], name: str, width: int, dark: bool) -> None:
    axe = pytest.importorskip("axe_core_python.selenium", reason="axe-core-python is not installed")
    screen = shown(browser, pages[name], width=width, dark=dark)
    violations = axe.Axe().run(screen)["violations"]
    found = [(each["id"], [node["html"][:200] for node in each["nodes"]][:3]) for each in violations]
    assert found == []


def test_names_do_nothing_and_nothing_is_logged_or_fetched(browser: Any, pages: dict[str, Path]) -> None:
    browser.get_log("browser")
    screen = shown(browser, pages["hostile"], width=1200)
    assert screen.execute_script("return window.bad") is None
    assert [entry["message"] for entry in screen.get_log("browser")] == []
    assert screen.execute_script("return performance.getEntriesByType('resource').length") == 0


def column(browser: Any, number: int) -> list[str]:
    script = (
        "return Array.from(document.querySelectorAll('#cells tbody tr'), row => row.cells[arguments[0]].textContent)"
    )
    found: list[str] = browser.execute_script(script, number)
    return found


def estimate(cell: str) -> float:
    """Returns the speed of a cell such as `11.5 (5.7–14.5)`, which its range follows."""
    return float(cell.partition(" ")[0])


def test_the_table_sorts_by_number_and_by_word(browser: Any, pages: dict[str, Path]) -> None:
    screen = shown(browser, pages["plain"], width=1280)
    heads = screen.find_elements("css selector", "#cells th button")
    names = [head.text for head in heads]
    rate, price, gpu = names.index("tokens/s"), names.index("price"), names.index("GPU")
    heads[rate].click()
    assert column(screen, rate) == sorted(column(screen, rate), key=estimate, reverse=True)
    heads[rate].click()
    assert column(screen, rate) == sorted(column(screen, rate), key=estimate)
    assert heads[rate].find_element("xpath", "..").get_attribute("aria-sort") == "ascending"
    heads[price].click()
    assert column(screen, price) == ["500", "600", "700", "800", "900", "1,000", "1,100", "1,200"]
    heads[gpu].click()
    assert column(screen, gpu) == sorted(column(screen, gpu))
    # What is unknown comes last in either order.
    more = names.index("+1 GiB")
    for _ in range(2):
        heads[more].click()
        assert column(screen, more)[-1] == "unknown"
    heads[0].click()
    assert column(screen, 0) == [str(number) for number in range(1, 9)]
    choose = "const s = document.getElementById('sort'); s.value = arguments[0]; s.dispatchEvent(new Event('change'))"
    screen.execute_script(choose, f"{price} down")
    assert column(screen, price)[0] == "1,200"


def test_ten_thousand_cells_are_filtered_and_sorted_and_shown_in_parts(browser: Any, pages: dict[str, Path]) -> None:
    # Wide enough for the table, which is cards where it does not fit.
    screen = shown(browser, pages["many"], width=1600)
    count = "return document.getElementById('count').textContent"
    assert screen.execute_script(count) == "100 of 10008 cells shown"
    names = [head.text for head in screen.find_elements("css selector", "#cells th button")]
    context = names.index("context")
    screen.find_elements("css selector", "#cells th button")[context].click()
    assert column(screen, context)[:9] == ["512"] * 8 + ["513"]
    screen.find_element("id", "filter").send_keys("RTX-3090 1762")
    assert screen.execute_script(count) == "1 of 1 cells shown, 10008 in all"
    assert column(screen, context) == ["1762"]
    screen.find_element("id", "filter").clear()
    screen.find_element("id", "meeting").click()
    assert set(column(screen, names.index("targets"))) == {"meets"}
    screen.execute_script("document.querySelector('.more').click()")
    assert len(column(screen, 0)) == 400


def test_keys_and_pointer_show_details(browser: Any, pages: dict[str, Path]) -> None:
    screen = shown(browser, pages["plain"], width=1280)
    press = """
    const picture = document.querySelectorAll(arguments[0])[0];
    picture.focus();
    for (const key of arguments[1]) picture.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
    return picture.parentElement.querySelector('.details').textContent;
    """
    first = "rtx-4060, 0.0 % of activations covered, 8.00 GiB, dense in part, misses "
    assert screen.execute_script(press, "svg.chart.wide", ["ArrowRight"]).startswith(first)
    assert screen.execute_script(press, "svg.chart.wide", ["End"]).startswith("rtx-a6000, 100.0 % of activations")
    assert screen.execute_script(press, "svg.chart.wide", ["Escape"]).startswith("Details: point at")
    assert screen.execute_script(press, "table.heat", ["ArrowRight"]).startswith("rtx-4060-ti-16gb: layer ")
    assert screen.execute_script(press, "table.heat", ["ArrowDown"]).startswith("rtx-5080: layer ")
    hover = """
    const square = document.querySelector('table.heat tbody tr:last-child rect:last-child');
    square.dispatchEvent(new PointerEvent('pointerover', { bubbles: true }));
    return document.querySelector('table.heat').parentElement.querySelector('.details').textContent;
    """
    assert screen.execute_script(hover) == "rtx-a6000; l40s: layer 79: about 100 %"


def test_without_script_all_of_it_is_there_and_no_dead_control(browser: Any, pages: dict[str, Path]) -> None:
    try:
        screen = shown(browser, pages["plain"], width=1280, script=False)
        assert screen.execute_script("return document.querySelectorAll('button, input, select').length") == 0
        assert column(screen, 0) == [str(number) for number in range(1, 9)]
        assert screen.execute_script(FAULTS) == []
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_card_on_a_phone_begins_with_name_and_verdict(browser: Any, pages: dict[str, Path]) -> None:
    screen = shown(browser, pages["plain"], width=360)
    tops = """
    const cells = Array.from(document.querySelector('#cells tbody tr').cells);
    const box = (cell) => cell.getBoundingClientRect();
    const tops = cells.map((cell) => box(cell).top);
    return [tops[1], tops[2], Math.min(...tops.slice(3))];
    """
    name, verdict, others = screen.execute_script(tops)
    assert name < verdict < others
    label = "return getComputedStyle(document.querySelector('#cells td:nth-child(2)'), '::before').content"
    assert screen.execute_script(label) == '"GPU "'


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_by_day_and_by_night(browser: Any, pages: dict[str, Path], dark: bool) -> None:
    screen = shown(browser, pages["plain"], width=1200, dark=dark)
    script = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
    text, back = (luminance(colour) for colour in screen.execute_script(script))
    assert (back < 0.1) is dark
    assert contrast(text, back) > 7  # WCAG 2.2, level AAA
    for part in (
        ".quiet",
        "svg.wide .tick",
        "svg.wide .label",
        "tr.meets td:nth-child(3)",
        "tr.misses td:nth-child(3)",
    ):
        style = f"const s = getComputedStyle(document.querySelector('{part}')); return [s.fill, s.color]"
        fill, colour = screen.execute_script(style)
        assert contrast(luminance(fill if part.startswith("svg") else colour), back) > 4.5, part
    # Dots are graphics: 3 to 1 is enough.
    for number in range(8):
        dot = f"return getComputedStyle(document.documentElement).getPropertyValue('--s{number}')"
        value = screen.execute_script(dot).strip().lstrip("#")
        rgb = f"rgb({', '.join(str(int(value[at : at + 2], 16)) for at in (0, 2, 4))})"
        assert contrast(luminance(rgb), back) > 3, number


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def luminance(colour: str) -> float:
    """Returns the relative luminance of `rgb(r, g, b)` (WCAG 2.2)."""
    inside = colour[colour.index("(") + 1 : colour.index(")")]
    parts = [int(part) / 255 for part in inside.split(",")[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
