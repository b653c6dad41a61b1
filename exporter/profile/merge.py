"""Counts of disjoint texts, added: what several machines counted without knowing of each other."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exporter.profile.checkpoint import CHECKPOINT_NAME
from exporter.profile.folder import REPORT_NAME, statistics_in, write_expert_files, write_statistics
from exporter.profile.run import REPORT_FORMAT, REPORT_VERSION, ProfileReport
from exporter.profile.split_half import HOTTEST_SHARES, Agreement, compare_halves
from planner.activations.folder import read_statistics
from planner.base.errors import InputError
from planner.base.text import printable
from planner.base.units import MIB

_MAX_REPORT_BYTES = 64 * MIB
# What must be the same for a sum to mean anything. The fingerprint of the model covers its tokenizer.
_SAME = {"model": "the model or its tokenizer", "active_above": "the threshold (--active-above)"}
_NEEDED = ("counted", "model_type", "activation", "tokens", "windows", "documents", "layers")


def merge(sources: Sequence[Path], output: Path, *, force: bool) -> ProfileReport:
    """Adds the counts of several folders and writes them into another.

    Args:
        sources: two or more folders that `profile` wrote.
        output: folder for the sum; made if missing.
        force: replace statistics that are there.

    Raises:
        InputError: a folder is none of a finished count, or they are not of one model and threshold, or a text was
            counted in two of them.
        OSError: a file cannot be read or written.
    """
    if len(sources) < 2:
        raise InputError("merge: found one folder, expected two or more to add")
    reports = [_report_of(folder) for folder in sources]
    first = reports[0]["counted"]
    seen: dict[str, Path] = {}
    for folder, report in zip(sources, reports, strict=True):
        counted = report["counted"]
        for key, name in _SAME.items():
            if counted.get(key) != first.get(key):
                raise InputError(
                    f"{folder}: {name} is another than in {sources[0]} ({_short(counted.get(key))}, there "
                    f"{_short(first.get(key))}); only counts of one model and threshold can be added"
                )
        for fingerprint in dict.fromkeys(counted["text"]):
            if fingerprint in seen:
                raise InputError(
                    f"{folder}: a text of it ({_short(fingerprint)}) was counted in {seen[fingerprint]} too; count "
                    f"each text once"
                )
            seen[fingerprint] = folder
    if any(output.exists() and output.samefile(folder) for folder in sources):
        raise InputError(f"{output}: is one of the folders to add; name another --output")
    if (finished := statistics_in(output)) and not force:
        raise InputError(
            f"{output}: already holds statistics ({finished[0].name}, ...); choose another --output or replace them "
            f"with --force"
        )
    if (output / CHECKPOINT_NAME).exists():
        raise InputError(f"{output}: holds the checkpoint of an unfinished count; choose another --output")
    if reports[0].get("workload_tokens") is None:
        return _merge_neurons(sources, reports, output)
    return _merge_experts(sources, reports, output)


def _merge_neurons(sources: Sequence[Path], reports: Sequence[dict[str, Any]], output: Path) -> ProfileReport:
    counts = [read_statistics(folder).values for folder in sources]
    shapes = [[layer.shape for layer in each] for each in counts]
    for folder, each in zip(sources, shapes, strict=True):
        if each != shapes[0]:
            raise InputError(f"{folder}: its layers have other neurons than those in {sources[0]}")
    sums = tuple(sum(layers[1:], start=layers[0].astype(np.int64)) for layers in zip(*counts, strict=True))
    tokens = [int(report["tokens"]) for report in reports]
    agreement = Agreement((), by_documents=True)
    # The first folder against the others, where that makes two halves.
    if 4 * min(tokens[0], sum(tokens[1:])) >= sum(tokens) > 0:
        rest = tuple(whole - part for whole, part in zip(sums, counts[0], strict=True))
        agreement = compare_halves(tuple(layer.astype(np.int64) for layer in counts[0]), rest, by_documents=True)
    layers: list[dict[str, Any]] = []
    for number, layer in enumerate(sums):
        entry: dict[str, Any] = {
            "n_ff": layer.size,
            "active_share": round(int(layer.sum()) / max(1, sum(tokens) * layer.size), 6),
        }
        if agreement.layers:
            measured = agreement.layers[number]
            entry["rank_agreement"] = None if measured.rank is None else round(measured.rank, 6)
            for share, overlap in zip(HOTTEST_SHARES, measured.hottest, strict=True):
                entry[f"hottest_{share:.0%}_overlap".replace("%", "_percent")] = round(overlap, 6)
        layers.append(entry)
    report = _sum_of(reports, layers, agreement)
    output.mkdir(parents=True, exist_ok=True)
    write_statistics(output, sums, _as_bytes(report))
    return ProfileReport(report, agreement)


def _merge_experts(sources: Sequence[Path], reports: Sequence[dict[str, Any]], output: Path) -> ProfileReport:
    files = [path for folder in sources for path in statistics_in(folder)]
    tokens = [int(report["tokens"]) for report in reports]
    layers = [
        {
            "n_experts": layer["n_experts"],
            "chosen_share": round(
                sum(n * report["layers"][number]["chosen_share"] for n, report in zip(tokens, reports, strict=True))
                / max(1, sum(tokens)),
                6,
            ),
        }
        for number, layer in enumerate(reports[0]["layers"])
    ]
    agreement = Agreement((), by_documents=True)
    report = _sum_of(reports, layers, agreement)
    contents = [(re.sub(r"^experts_[0-9]+_|\.pt$", "", path.name), path.read_bytes()) for path in files]
    output.mkdir(parents=True, exist_ok=True)
    write_expert_files(output, contents, _as_bytes(report))
    return ProfileReport(report, agreement)


def _sum_of(reports: Sequence[dict[str, Any]], layers: list[dict[str, Any]], agreement: Agreement) -> dict[str, Any]:
    counted = [report["counted"] for report in reports]
    same = {
        key: value if all(each.get(key) == value for each in counted) else None for key, value in counted[0].items()
    }
    workloads: list[Any] = [report.get("workload_tokens") for report in reports]
    return {
        "format": REPORT_FORMAT,
        "version": REPORT_VERSION,
        "counted": same | {"text": [fingerprint for each in counted for fingerprint in each["text"]], "tokens": None},
        "model_type": reports[0]["model_type"],
        "activation": reports[0]["activation"],
        "gated": reports[0].get("gated"),
        "tokens": sum(report["tokens"] for report in reports),
        "workload_tokens": None if None in workloads else [n for each in workloads for n in each],
        "windows": sum(report["windows"] for report in reports),
        "documents": sum(report["documents"] for report in reports),
        "halves_by": "documents",
        "enough": agreement.enough,
        "verdict": agreement.sentence() if agreement.layers else "rank agreement of halves is not known for a sum",
        "layers": layers,
    }


def _report_of(folder: Path) -> dict[str, Any]:
    path = folder / REPORT_NAME
    if not path.is_file() or not statistics_in(folder):
        raise InputError(f"{folder}: found no finished count, expected a folder that hotsplit profile wrote")
    damaged = InputError(f"{path}: found no report of a count, expected the one that hotsplit profile wrote")
    if path.stat().st_size > _MAX_REPORT_BYTES:
        raise damaged
    try:
        report = json.loads(path.read_bytes())
        if report["format"] != REPORT_FORMAT or any(key not in report for key in _NEEDED):
            raise damaged
        if report["version"] != REPORT_VERSION:
            raise InputError(
                f"{path}: is of version {_short(report['version'])}, expected {REPORT_VERSION}; count again"
            )
        numbers = [report[key] for key in ("tokens", "windows", "documents")]
        texts = report["counted"]["text"]
        if any(type(number) is not int for number in numbers) or not all(isinstance(text, str) for text in texts):
            raise damaged
    except (ValueError, KeyError, TypeError, RecursionError):
        raise damaged from None
    return dict(report)


def _as_bytes(report: dict[str, Any]) -> bytes:
    return (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode()


def _short(value: object) -> str:
    return printable(str(value).removeprefix("sha256:"), limit=24)
