"""What the engine does where nobody says otherwise: the files it looks for, and what its options are then.

Light, because commands show these in their help. Line numbers are of PowerInfer at commit d3ebd7c.
"""

from __future__ import annotations

from typing import Final

# Beside the model: the statistics (`llama.cpp` 3101-3106), and after the model's own name the index (3090).
ACTIVATIONS_FOLDER = "activation"
INDEX_SUFFIX = ".generated.gpuidx"

# `-c`, `-b` and no `--memory-f32` (`common/common.h` 51-52, 105).
DEFAULT_CONTEXT = 512
DEFAULT_BATCH = 512
DEFAULT_KV_TYPE: Final = "f16"
