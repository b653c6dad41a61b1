"""How much memory a count may take, and whether a model fits in it as a whole."""

from __future__ import annotations

from typing import Literal

from planner.base.errors import InputError
from planner.base.record import Record
from planner.hardware.host import host_memory

# Of what is free when nothing is said: other programs want some as well.
_SHARE = 0.8


class Room(Record):
    """Memory that a count may take beside libraries.

    Attributes:
        memory_bytes: the host's.
        gpu_memory_bytes: the GPU's; None where there is none.
        copies: how many times a whole model is in memory while it is opened.
    """

    memory_bytes: int
    gpu_memory_bytes: int | None
    copies: int

    def holds(self, n_bytes: int) -> bool:
        """Whether a model with weights of so many bytes goes in as a whole, with a tenth more for what it computes."""
        most = self.memory_bytes if self.gpu_memory_bytes is None else self.gpu_memory_bytes
        return n_bytes * self.copies * 1.1 <= most


def find_room(device: Literal["cpu", "cuda"], memory_bytes: int | None, gpu_memory_bytes: int | None) -> Room:
    """Returns what the user gives, and for what is not given most of what is free.

    A system that does not tell what is free is taken to have enough for any model.

    Args:
        device: where the model will run.
        memory_bytes: what the user gives of the host's memory.
        gpu_memory_bytes: what the user gives of the GPU's.

    Raises:
        InputError: memory of a GPU is given, and none is used.
    """
    if device == "cpu" and gpu_memory_bytes is not None:
        raise InputError("--gpu-memory: the count runs on the CPU; leave it out, or use --device cuda")
    if device == "cuda" and gpu_memory_bytes is None:
        import torch

        gpu_memory_bytes = int(torch.cuda.mem_get_info()[0] * _SHARE)
    # A limit of the user's counts the mapped file as well, which the system could drop.
    copies = 1 if memory_bytes is None else 2
    if memory_bytes is None:
        available = host_memory().available_bytes
        memory_bytes = 1 << 62 if available is None else int(available * _SHARE)
    return Room(memory_bytes, gpu_memory_bytes if device == "cuda" else None, copies if device == "cpu" else 1)
