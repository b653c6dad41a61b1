"""Which type each tensor gets when the engine's own tools convert and quantise a model.

The converters write matrices (two dimensions, name ending in `weight`) as F16 and everything else as F32
(`convert-hf-to-powerinfer-gguf.py` 395-410 at commit d3ebd7c). `quantize` then changes matrices only
(`llama_model_quantize_internal`, `llama.cpp` 9265-9280): `output.weight` becomes Q6_K, or Q8_0 for Falcon and where a
row is not a multiple of 256; the predictors `fc1` and `fc2` become Q4_0 for Q4_0 and Q5_0 for every other type
(`get_k_quant_type`, 9030-9036 and 9096-9099). Everything else gets the type asked for. The K-quant mixtures (`Q4_K_M`
and its like) are not declared here: the engine's sparse kernels take F16 and Q4_0 in practice.
"""

from __future__ import annotations

from planner.base.errors import InputError
from planner.base.text import closest

UNQUANTISED = ("F32", "F16")
QUANTISED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
QUANTISATIONS = (*UNQUANTISED, *QUANTISED)
_K_BLOCK = 256


def tensor_type(architecture: str, name: str, shape: tuple[int, ...], quantisation: str) -> str:
    """Returns the type name of one tensor of a model quantised to `quantisation`.

    Args:
        architecture: such as `llama`.
        name: the tensor's name, with or without `blk.<layer>.`.
        shape: in GGUF order, row length first.
        quantisation: one of `QUANTISATIONS`, in upper or lower case.

    Raises:
        InputError: another quantisation.
    """
    wanted = quantisation.upper()
    if wanted not in QUANTISATIONS:
        near = closest(quantisation, QUANTISATIONS)
        raise InputError(f"quantisation {quantisation[:80]!r} is not known; known are {', '.join(QUANTISATIONS)}{near}")
    if len(shape) != 2 or not name.endswith("weight"):
        return "F32"
    if wanted in UNQUANTISED:
        return wanted
    if name == "output.weight":
        # 9030-9036; a model asked to be Q8_0 keeps Q8_0.
        return "Q8_0" if architecture == "falcon" or shape[0] % _K_BLOCK or wanted == "Q8_0" else "Q6_K"
    if name.endswith(("fc1.weight", "fc2.weight")):
        return "Q4_0" if wanted == "Q4_0" else "Q5_0"
    return wanted
