"""Making strings from files safe to show: a model's name must not move the cursor or break a line."""

from __future__ import annotations

import unicodedata

# A file may hold a name of many kilobytes; a line that says so need not.
MAX_LINE_CHARACTERS = 4000

# Cc control, Cf format (bidirectional overrides, zero-width), Cs surrogate, Co private, Zl/Zp line breaks.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(text: str, *, limit: int | None = None) -> str:
    r"""Returns `text` with every character that is not plainly visible written as an escape (`\x1b`).

    Args:
        text: anything, typically a name or a path read from a file.
        limit: the most characters to show; what is longer is cut and ends in `…`.
    """
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character
        if unicodedata.category(character) not in _UNSAFE_CATEGORIES
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def listed(items: list[str], *, most: int = 8) -> str:
    """Returns `a, b, c` or, when there are more than `most`, `a, b, … (12 in all)`."""
    if len(items) <= most:
        return ", ".join(items)
    return ", ".join(items[:most]) + f", … ({len(items)} in all)"


def closest(word: str, known: list[str] | tuple[str, ...]) -> str:
    """Returns `; did you mean 'x'?` when a known word is near, else nothing."""
    import difflib  # where there is a mistake, and not before

    spellings = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower()[:100], spellings, n=1, cutoff=0.55)
    return f"; did you mean {spellings[near[0]]!r}?" if near else ""
