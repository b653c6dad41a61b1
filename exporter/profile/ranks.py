"""Several processes that count together: torch's distributed engine, as `torchrun` starts it.

Every process reads the whole text and takes the batches that are its turn. Counts are integers, so their sum does not
depend on who counted what. Sums are made between groups of batches; what is counted up to there is the same in every
process, so that whichever is left when one dies can write the checkpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from planner.base.errors import HotsplitError, InputError

Counts = npt.NDArray[np.int64]

# A rank may wait for the slowest through one group of batches of a large model.
_PATIENCE = timedelta(hours=6)
_CLAIM = "hotsplit/ended"
# How often a process that waits for a sum on GPUs looks whether it is there.
_GLANCE_S = 0.002


class RankLostError(HotsplitError):
    """Another process of the run ended before its work was done.

    Attributes:
        claimed: this process has the last word already.
    """

    exit_code = 2
    claimed = False


class SilentError(HotsplitError):
    """Another process of the run says what happened."""

    exit_code = 2

    @property
    def lines(self) -> tuple[str, ...]:
        """No line."""
        return ()


class Ranks:
    """The processes of a run, seen from one of them."""

    def __init__(self, rank: int = 0, size: int = 1, store: Any = None, backend: str = "gloo") -> None:
        self.rank = rank
        self.size = size
        self._store = store
        self._backend = backend

    @property
    def leads(self) -> bool:
        """Whether this process writes and tells."""
        return self.rank == 0

    def turn(self, number: int) -> bool:
        """Whether the batch with this number is this process' to count."""
        return number % self.size == self.rank

    def total(self, arrays: Sequence[Counts]) -> tuple[Counts, ...]:
        """Returns the sums of arrays over all processes.

        Raises:
            RankLostError: one of them is gone.
        """
        if self.size == 1:
            return tuple(arrays)
        import torch
        from torch import distributed

        flat = torch.from_numpy(np.concatenate([array.ravel() for array in arrays]))
        try:
            if self._backend == "nccl":
                flat = flat.cuda()
                work = distributed.all_reduce(flat, async_op=True)
                # Waiting inside the library, a process would not hear that it is asked to end.
                while not work.is_completed():
                    time.sleep(_GLANCE_S)
                flat = flat.cpu()
            else:
                distributed.all_reduce(flat)
        except RuntimeError as error:
            said = (str(error).splitlines() or ["no reason given"])[0]
            raise RankLostError(f"a process of the run is gone ({said[:120]})") from None
        parts = np.split(flat.numpy(), np.cumsum([array.size for array in arrays])[:-1])
        return tuple(part.reshape(array.shape) for part, array in zip(parts, arrays, strict=True))

    def agree(self, what: str) -> None:
        """Waits for all processes and checks that they are about the same.

        Raises:
            InputError: they are not.
            RankLostError: one of them is gone.
        """
        # Equal numbers have equal sums; others can have one, but then their squares have not.
        number = int.from_bytes(hashlib.sha256(what.encode()).digest()[:4], "big")
        (found,) = self.total([np.array([number, number * number >> 8], dtype=np.int64)])
        if [*found.tolist()] != [number * self.size, (number * number >> 8) * self.size]:
            raise InputError(
                "the processes of the run do not count the same: give all of them the same model, text, options and "
                "kind of device"
            )

    def claims_last_word(self) -> bool:
        """Whether this process is the first that ends before the work is done; the others then say nothing."""
        if self.size == 1:
            return True
        try:
            return int(self._store.add(_CLAIM, 1)) == 1
        except RuntimeError:
            # Whoever kept the list is gone too. Better told twice than not at all.
            return True


def started_by_torchrun() -> bool:
    """Whether torch's launcher started this process, with others or alone."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def choose_backend(device: str, n_gpus: int, local_ranks: int, *, has_nccl: bool) -> Literal["gloo", "nccl"]:
    """Returns which of torch's engines adds the counts of the processes.

    nccl refuses two processes on one GPU ("Duplicate GPU detected"), so it needs a GPU for each.

    Args:
        device: where is counted, `auto`, `cpu` or `cuda`.
        n_gpus: GPUs that torch sees.
        local_ranks: processes of the run on this machine.
        has_nccl: whether torch was built with it.
    """
    return "nccl" if device != "cpu" and has_nccl and 0 < local_ranks <= n_gpus else "gloo"


def leads() -> bool:
    """Whether this process is the one of its run that writes and tells."""
    return not started_by_torchrun() or os.environ["RANK"] == "0"


@contextlib.contextmanager
def joined(device: str = "cpu") -> Iterator[Ranks]:
    """Yields the processes of the run; where torch's launcher started none, or only this one, that is this one.

    A process that is asked to end (SIGTERM, which the launcher sends when another died) raises `RankLostError`.

    Args:
        device: where is counted, `auto`, `cpu` or `cuda`.

    Raises:
        InputError: the others are not found.
        SilentError: the block raised an error, and another process reports it.
    """
    if not started_by_torchrun() or int(os.environ["WORLD_SIZE"]) == 1:
        yield Ranks()
        return
    import torch
    from torch import distributed

    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if n_gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % n_gpus)
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    backend = choose_backend(device, n_gpus, local_ranks, has_nccl=distributed.is_nccl_available())
    try:
        distributed.init_process_group(backend, timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        said = (str(error).splitlines() or ["no reason given"])[0]
        raise InputError(
            f"the other processes of the run are not found ({said[:200]}); start them with torchrun"
        ) from None
    ranks = Ranks(
        distributed.get_rank(), distributed.get_world_size(), distributed.distributed_c10d._get_default_store(), backend
    )
    try:
        with _ending_on_request():
            yield ranks
            ranks.total([np.zeros(1, dtype=np.int64)])
    except SilentError:
        raise
    except HotsplitError as error:
        if not (getattr(error, "claimed", False) or ranks.claims_last_word()):
            raise SilentError("") from None
        raise
    finally:
        with contextlib.suppress(RuntimeError):
            distributed.destroy_process_group()


@contextlib.contextmanager
def _ending_on_request() -> Iterator[None]:
    def end(*_: object) -> None:
        raise RankLostError("a process of the run is gone (torchrun ends the others)")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
