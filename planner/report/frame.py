"""The frame that all pages share: head, security policy, title, footer. A page is one file that fetches nothing.

Names come from files of strangers: every one is escaped, and a content security policy lets a page run its own script
and style (by their hashes) and nothing else, so that a name that slipped through could still do nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from planner import __version__
from planner.base.outputs import GENERATOR
from planner.report.charts import escaped

_FOLDER = Path(__file__).parent


def framed(
    title: str,
    header: Iterable[str],
    body: Iterable[str],
    *,
    footer: Sequence[tuple[str, str]] = (),
    style: str = "",
    script: bool = True,
) -> str:
    """Returns a whole page.

    Args:
        title: text, escaped here.
        header: HTML below the title.
        body: HTML, sections.
        footer: what the page was made with, such as `("command", "hotsplit whatif study.yaml")`; escaped here.
        style: rules of this page alone, after those of all pages.
        script: whether the page has the script that sorts, filters and shows details. All can be read without.
    """
    rules = (_FOLDER / "page.css").read_text("utf-8") + style
    code = (_FOLDER / "page.js").read_text("utf-8") if script else ""
    allowed = f"default-src 'none'; style-src {_hash(rules)}; "
    allowed += f"script-src {_hash(code)}; " if script else ""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f"<meta http-equiv=\"Content-Security-Policy\" content=\"{allowed}base-uri 'none'; form-action 'none'\">",
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<meta name="referrer" content="no-referrer">',
            f'<meta name="generator" content="{GENERATOR}">',
            f"<title>{escaped(title)}</title>",
            f"<style>{rules}</style>",
            *([f"<script>{code}</script>"] if script else []),
            "</head>",
            "<body>",
            f"<header><h1>{escaped(title)}</h1>",
            *header,
            "</header>",
            "<main>",
            *body,
            "</main>",
            "<footer><dl>",
            f"<dt>made by</dt><dd>Hotsplit {__version__}</dd>",
            *(f"<dt>{escaped(name)}</dt><dd><code>{escaped(text, limit=2000)}</code></dd>" for name, text in footer),
            "</dl></footer>",
            "</body>",
            "</html>",
            "",
        ]
    )


def answered(title: str, replies: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    """Yields the section with the replies to what was asked of a study; nothing where nothing was asked.

    Args:
        title: of the section.
        replies: the question, what it was asked of, and the reply in words; escaped here.
    """
    shown = list(replies)
    if not shown:
        return
    yield f"<section><h2>{escaped(title)}</h2><dl>"
    for question, about, text in shown:
        yield f"<dt>{escaped(question)}: {escaped(about, limit=400)}</dt><dd>{escaped(text, limit=400)}</dd>"
    yield "</dl></section>"


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
