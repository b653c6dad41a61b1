"""Published figures as they are shipped, and what a file of them may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.activations.layer_summaries import LayerFigures, read_figures, shipped_statistics, statistics_path
from planner.base.errors import InputError

SHIPPED = ("relullama-13b", "relullama-70b", "relullama-7b")


def test_shipped_figures_are_the_published_ones() -> None:
    assert shipped_statistics() == ("relullama-13b", "relullama-70b", "relullama-7b")
    first = read_figures(statistics_path("relullama-7b"))[0]
    assert first == LayerFigures(
        11008, 11001, 357568, 36575.42868822674, 42841.36299829408, 0.5327777214455192, (4551, 6355, 7788)
    )
    last = read_figures(statistics_path("relullama-70b"))[79]
    assert (last.nonzero, last.max, last.hot) == (28570, 816878, (11896, 17430, 21231))
    for name in SHIPPED:
        remarks = statistics_path(name).read_text("utf-8").partition("layer,")[0]
        assert "github.com/viennh/CAP6614-PowerInfer" in remarks
        assert "MIT" in remarks


HEADER = "layer,neurons,nonzero,max,mean,std,gini,hot_80,hot_90,hot_95"


GOOD = "0,100,100,50,10,5,0.3,60,78,88"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", f"FILE: has the columns ; expected {HEADER.replace(',', ', ')}"),
        ("a,b\n1,2", f"FILE: has the columns a, b; expected {HEADER.replace(',', ', ')}"),
        (HEADER, "FILE: has no layers; expected one line of figures for each"),
        (f"{HEADER}\n1,2", "FILE: layer 0: has 2 figures; expected 10"),
        (f"{HEADER}\n{GOOD}\n{GOOD}", "FILE: layer 1: is called 0; expected layers in order, counted from 0"),
        (f"{HEADER}\n{GOOD.replace('50', 'x')}", "FILE: layer 0: max is 'x'; expected a number"),
        (
            f"{HEADER}\n{GOOD.replace('0.3', 'nan')}",
            "FILE: layer 0: mean, std and gini are (10.0, 5.0, nan); expected finite numbers",
        ),
        (
            f"{HEADER}\n{GOOD.replace('100,100', '100,101')}",
            "FILE: layer 0: nonzero is 101 of 100 neurons; expected 2 or more, and no more than all",
        ),
        (
            f"{HEADER}\n{GOOD.replace('50', '9')}",
            "FILE: layer 0: max is 9 and mean 10.0; expected a maximum of at least the nonzero mean",
        ),
        (
            f"{HEADER}\n{GOOD.replace('78', '60')}",
            "FILE: layer 0: hot_80, hot_90 and hot_95 are (60, 60, 88); expected ascending numbers from 2 to under "
            "nonzero",
        ),
        (
            f"{HEADER}\n{GOOD.replace('60,78,88', '90,91,92')}",
            "FILE: layer 0: the counts would have to rise from hot to cold neurons; expected hot_80 ≤ 8 "
            "(hot_90 - hot_80) and so on",
        ),
    ],
)
def test_figures_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "figures.csv"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError) as caught:
        read_figures(path)
    assert str(caught.value).replace(str(path), "FILE") == message
