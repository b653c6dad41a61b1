"""The model that is meant where a folder is named: the one in it."""

from __future__ import annotations

from pathlib import Path

from planner.base.errors import InputError
from planner.base.text import listed

_ENDING = ".gguf"
_SPARSE_ENDING = ".powerinfer.gguf"


def model_in(folder: Path) -> Path:
    """Returns the only PowerInfer model (`*.powerinfer.gguf`) in `folder`, else the only model (`*.gguf`).

    Raises:
        InputError: there is none, or more than one; the message names some.
        OSError: the folder cannot be read.
    """
    models = sorted(path for path in folder.iterdir() if path.name.lower().endswith(_ENDING) and path.is_file())
    sparse = [path for path in models if path.name.lower().endswith(_SPARSE_ENDING)]
    candidates = sparse or models
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        names = listed([path.name for path in candidates], most=4)
        raise InputError(f"{folder}: a folder with {len(candidates)} models; name one of them: {names}")
    if (folder / "config.json").is_file():
        raise InputError(
            f"{folder}: a Hugging Face folder; convert it with PowerInfer's converter first, then name the file "
            f"NAME{_SPARSE_ENDING}"
        )
    raise InputError(f"{folder}: a folder without a model (*{_ENDING}); name the model file")
