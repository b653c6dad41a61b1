from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from exporter.powerinfer.doctor_case import Case
from exporter.profile.run import ProfileOptions
from planner.base.errors import InputError
from planner.base.request_values import as_bytes, as_count, as_gpu, as_path
from planner.engines.powerinfer.fit import Settings
from planner.planning import PlanRequest


def test_a_request_takes_text_numbers_and_paths() -> None:
    request = PlanRequest(
        "x.gguf",  # type: ignore[arg-type]
        activations="stats",  # type: ignore[arg-type]
        gpu=1,  # type: ignore[arg-type]
        vram_budget_bytes="8GiB",  # type: ignore[arg-type]
        host_bytes=np.int64(7),
        context="512",  # type: ignore[arg-type]
    )
    assert request == PlanRequest(
        Path("x.gguf"), activations=Path("stats"), gpu="1", vram_budget_bytes=8 << 30, host_bytes=7, context=512
    )
    assert type(request.host_bytes) is int
    assert request.activations_folder == Path("stats")
    assert PlanRequest("a/x.gguf").activations_folder == Path("a/activation")  # type: ignore[arg-type]


def test_other_requests_take_text_too() -> None:
    options = ProfileOptions("hf", "notes.txt", "out")  # type: ignore[arg-type]
    assert options == ProfileOptions(Path("hf"), (Path("notes.txt"),), Path("out"))
    assert Case("m/x.gguf").index_path == Path("m/x.gguf.generated.gpuidx")  # type: ignore[arg-type]
    assert Settings("64") == Settings(64)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("model", 7, "model: found 7, expected a path, as text or a Path"),
        ("model", "", "model: found '', expected a path, as text or a Path"),
        ("model", None, "model: found None, expected a path, as text or a Path"),
        ("model", b"x", "model: found b'x', expected a path, as text or a Path"),
        ("activations", 1.5, "activations: found 1.5, expected a path, as text or a Path"),
        ("gpu", 1.5, "gpu: found 1.5, expected a GPU's UUID or index"),
        ("gpu", True, "gpu: found True, expected a GPU's UUID or index"),
        (
            "vram_budget_bytes",
            8.5,
            "vram_budget_bytes: found 8.5, expected bytes as a whole number, or a size such as '8GiB'",
        ),
        ("host_bytes", -1, "host_bytes: found -1, expected bytes as a whole number, or a size such as '8GiB'"),
        (
            "cuda_context_bytes",
            "much",
            "cuda_context_bytes: size 'much' is not understood; write it as 8GiB, 8GB, 8192MiB, 8589934592B or, as in "
            "the engine's own flag, 8 for GiB",
        ),
        ("context", "2k", "context: found '2k', expected a whole number such as 512"),
        ("context", 2048.0, "context: found 2048.0, expected a whole number such as 512"),
        ("batch", True, "batch: found True, expected a whole number such as 512"),
        ("granularity", "9" * 11, "granularity: found '99999999999', expected a whole number such as 512"),
    ],
)
def test_what_is_neither_is_refused_with_the_name_of_the_field(field: str, value: object, said: str) -> None:
    with pytest.raises(InputError) as caught:
        PlanRequest(**{"model": Path("x"), field: value})  # type: ignore[arg-type]
    assert str(caught.value) == said


def test_long_values_are_shown_short() -> None:
    with pytest.raises(InputError) as caught:
        as_path(["x" * 500], "model")
    assert str(caught.value) == f"model: found ['{'x' * 57}…, expected a path, as text or a Path"


def test_values_of_the_right_type_stay() -> None:
    path = Path("a") / "b"
    assert as_path(path, "x") == path
    assert as_path(PurePosixPath("a/b"), "x") == path
    assert (as_bytes(5, "x"), as_count(0, "x"), as_gpu("GPU-1", "x")) == (5, 0, "GPU-1")
