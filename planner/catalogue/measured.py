"""A file of measured entries, as `hotsplit measure` writes it: at most one host and at most one GPU, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

from planner.base.errors import InputError
from planner.base.text import listed
from planner.catalogue.entries import GpuEntry, HostEntry
from planner.config.schema import Table, about, check
from planner.config.yaml_file import read_yaml

_Entry = TypeVar("_Entry", GpuEntry, HostEntry)


class _MeasuredFile(Table):
    hosts: Annotated[dict[str, HostEntry] | None, about("a mapping of names to hosts")] = None
    gpus: Annotated[dict[str, GpuEntry] | None, about("a mapping of names to GPUs")] = None


def measured_host(path: Path) -> tuple[str, HostEntry]:
    """Returns the host of a file and its name.

    Raises:
        FaultsError, InputError: the file is not of this form, or has no host or several.
        OSError: it cannot be read.
    """
    return _only(path, "host", check(_MeasuredFile, read_yaml(path)).hosts)


def measured_gpu(path: Path) -> tuple[str, GpuEntry]:
    """Returns the GPU of a file and its name; raises what `measured_host` does."""
    return _only(path, "GPU", check(_MeasuredFile, read_yaml(path)).gpus)


def _only(path: Path, what: str, entries: dict[str, _Entry] | None) -> tuple[str, _Entry]:
    if not entries:
        raise InputError(f"{path}: found no {what}, expected one; `hotsplit measure` writes what the machine has")
    if len(entries) > 1:
        raise InputError(f"{path}: found {len(entries)} {what}s, expected one: {listed(list(entries), most=4)}")
    return next(iter(entries.items()))
