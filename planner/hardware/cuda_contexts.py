"""What a CUDA context takes on the cards of which somebody published it; all others have the engine's default.

The figures are those of the catalogue (`planner/catalogue/data/gpus.yaml`, with their sources), by the name that NVML
gives; a test compares the two. Planning for the GPU at hand reads no catalogue, so they are here as well.
"""

from __future__ import annotations

from planner.base.units import MIB

_PUBLISHED_BYTES = {
    "NVIDIA GeForce RTX 4060 Ti": 107 * MIB,
    "NVIDIA GeForce RTX 4090": 428 * MIB,
    "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition": 612 * MIB,
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": 612 * MIB,
    "NVIDIA RTX PRO 6000 Blackwell Workstation Edition": 612 * MIB,
}


def published_context_bytes(name: str) -> int | None:
    """Returns the bytes of a CUDA context on a card, the largest that was published; None where none was.

    Args:
        name: as NVML spells it.

    >>> published_context_bytes("NVIDIA GeForce RTX 4090") // 2**20
    428
    >>> published_context_bytes("A card") is None
    True
    """
    return _PUBLISHED_BYTES.get(name)
