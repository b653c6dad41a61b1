"""The hot cache of adrianhoehne/llama.cpp: a list of experts, on one GPU or several, each of its own size.

Facts of commit 04c1003 (`src/moe-hot-cache/`): a file is exact with `LLAMA_MOE_HOT_CACHE_FILL_RANDOM=0` and a budget
that holds the whole list plus one zero expert for each layer that has any.
"""

from __future__ import annotations

from planner.engines.experts.llama_cpp import LlamaCpp


class HotCache(LlamaCpp):
    """A list of its own for each layer; a zero expert in each layer that has any."""

    name = "hot-cache"
    title = "the hot cache (adrianhoehne/llama.cpp)"
    about = "the hot cache of adrianhoehne/llama.cpp 04c1003: any experts, on up to three GPUs"
    architectures = frozenset({"qwen35moe", "qwen3next", "gemma4", "mellum", "gpt-oss", "deepseek2", "glm4moe"})
    spare_experts = 1
    lanes = True
    default_choice = "random"


ENGINE = HotCache()
