"""A mixture-of-experts model as people have it: a GGUF, any part of one, or a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

from planner.model_files.gguf_parts import read_gguf
from planner.model_files.hf_folder import CONFIG, INDEX, SINGLE, read_hf_folder
from planner.model_files.moe.from_folder import moe_from_folder
from planner.model_files.moe.from_gguf import moe_from_gguf
from planner.model_files.moe.model import MoeModel


def read_moe_model(path: Path) -> MoeModel:
    """Weighs the model at `path` from its headers.

    A safetensors file or `config.json` stands for the folder that holds it.

    Raises:
        InputError: no model, no experts, or a part is missing, foreign or contradicts itself.
        OSError: a file cannot be opened or read.
    """
    path = Path(path)
    if path.is_dir():
        return moe_from_folder(read_hf_folder(path))
    if path.name in {CONFIG, INDEX, SINGLE} or path.suffix == ".safetensors":
        return moe_from_folder(read_hf_folder(path.parent))
    return moe_from_gguf(read_gguf(path))
