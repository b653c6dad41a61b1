"""What a count layer by layer takes, by the system's own accounting, against what it may take."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from planner.base.units import MIB
from tests.processes import started

_WHY = "the optional extra is not installed: pip install 'hotsplit[profile]'"
transformers: Any = pytest.importorskip("transformers", reason=_WHY)

from tests.test_profile import make_config, make_model  # noqa: E402 - after the check

if sys.platform != "linux":
    pytest.skip("only Linux tells a process its peak memory in this way", allow_module_level=True)

# The peak is that of this program alone; `ru_maxrss` would hold the peak of the process that started it.
_COUNT = """
import json, sys, torch, transformers, transformers.models.auto.modeling_auto
from transformers.models.llama import modeling_llama
torch.set_num_threads(1)
def peak_bytes():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
bare = peak_bytes()
from exporter.profile.run import ProfileOptions, profile
notes = []
model, text, output, memory = sys.argv[1:]
options = ProfileOptions(model, text, output, context=64, device="cpu", memory_bytes=int(memory))
tokens = profile(options, tell=notes.append).values["tokens"]
print(json.dumps([bare, peak_bytes(), tokens, notes]))
"""

_LAYERS, _HIDDEN, _N_FF = 8, 512, 2048
# Four square matrices of attention and three of the FFN, in float32.
_WEIGHTS_BYTES = _LAYERS * 4 * (4 * _HIDDEN**2 + 3 * _HIDDEN * _N_FF)
_MEMORY_BYTES = 90 * MIB


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_a_count_layer_by_layer_stays_below_the_memory_that_it_may_take(stored: str, tmp_path: Path) -> None:
    """The weights alone are larger than that, so keeping two layers more, or mapped files, would be seen."""
    assert _WEIGHTS_BYTES > _MEMORY_BYTES + 30 * MIB
    config = make_config(
        "llama",
        num_hidden_layers=_LAYERS,
        hidden_size=_HIDDEN,
        intermediate_size=_N_FF,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=64,
        dtype=stored,
    )
    folder = make_model(tmp_path / "model", config)
    text = tmp_path / "text.txt"
    text.write_text("a b c d " * 256)
    command = [sys.executable, "-c", _COUNT, folder, text, tmp_path / "out", str(_MEMORY_BYTES)]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    bare, peak, tokens, notes = json.loads(out)
    assert tokens == 1025
    assert [note.startswith("counting layer by layer, up to ") for note in notes] == [True]
    assert peak - bare < _MEMORY_BYTES
