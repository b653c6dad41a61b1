"""One target in a process of its own: libFuzzer never returns. `python -m fuzz.campaign TARGET [libFuzzer options]`."""

from __future__ import annotations

import importlib
import sys

import atheris

from fuzz.targets import TARGETS, checksummed

# The readers import one another lazily; what is measured is what is imported here.
READERS = (
    "exporter.powerinfer.overwrite",
    "planner.engines.powerinfer.account",
    "planner.activations.expert_counts.reading",
    "planner.activations.expert_counts.workload",
    "planner.engines.powerinfer.geometry",
    "planner.model_files.header",
    "planner.model_files.gguf_parts",
    "planner.model_files.hf_folder",
    "planner.base.json_values",
    "planner.model_files.json_text",
    "planner.model_files.safetensors_header",
    "planner.model_files.moe.from_folder",
    "planner.model_files.moe.from_gguf",
    "planner.model_files.moe.read",
    "planner.plans.file",
    "planner.studies.study",
    "planner.studies.study_file",
    "planner.activations.torch_file",
    "planner.activations.torch_pickle",
)


def _mutated_archive(data: bytes, longest: int, seed: int) -> bytes:
    """Mutates a `.pt` file and, most times, makes its checksums right again, behind which the interesting code is."""
    mutated: bytes = atheris.Mutate(data, longest)
    return checksummed(mutated)[:longest] if seed % 4 else mutated


def main() -> None:
    """Fuzzes until libFuzzer's limits say stop."""
    name, *options = sys.argv[1:]
    with atheris.instrument_imports(include=["planner", "exporter"]):
        for reader in READERS:
            importlib.import_module(reader)
    custom = {"custom_mutator": _mutated_archive} if name == "torch" else {}
    atheris.Setup([sys.argv[0], *options], TARGETS[name].run, **custom)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
