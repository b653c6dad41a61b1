"""The router's choices, counted, against a count through the router's own scores on a model that was opened apart."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file

from exporter.commands import profile as command
from exporter.profile.layered import LayeredModel
from exporter.profile.room import Room
from exporter.profile.run import ProfileOptions, profile
from planner.base.errors import InputError
from planner.cli.run import build_parser, run_command

_WHY = "the optional extra is not installed: pip install 'hotsplit[profile]'"
transformers: Any = pytest.importorskip("transformers", "5.0", reason=_WHY)

from tests.test_profile import COMMON, CONTEXT, make_model, make_text, windows_of  # noqa: E402 - after the check

N_LAYER, N_EXPERTS = 3, 8
GIVEN: dict[str, Any] = {
    **COMMON,
    "intermediate_size": 24,
    "moe_intermediate_size": 24,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "head_dim": 8,
}
LATENT: dict[str, Any] = {
    **{key: value for key, value in GIVEN.items() if key != "head_dim"},
    "n_routed_experts": N_EXPERTS,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}
GROUPS: dict[str, Any] = {"n_group": 4, "topk_group": 2, "norm_topk_prob": True}
# The model's name in transformers, its options, experts a token, and its first layer with experts.
FAMILIES: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "mixtral": ("Mixtral", {**GIVEN, "num_local_experts": N_EXPERTS}, 2, 0),
    "olmoe": ("Olmoe", {**GIVEN, "num_experts": N_EXPERTS}, 3, 0),
    "qwen3_moe": ("Qwen3Moe", {**GIVEN, "num_experts": N_EXPERTS, "mlp_only_layers": [0]}, 2, 1),
    "gpt_oss": ("GptOss", {**GIVEN, "num_local_experts": N_EXPERTS, "sliding_window": 8}, 2, 0),
    "deepseek_v2": ("DeepseekV2", {**LATENT, "topk_method": "greedy"}, 2, 1),
    "deepseek_v3": ("DeepseekV3", {**LATENT, **GROUPS}, 2, 1),
    "glm4_moe": (
        "Glm4Moe",
        {**GIVEN, **GROUPS, "n_routed_experts": N_EXPERTS, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
        2,
        1,
    ),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_text(tmp_path_factory.mktemp("text"), documents=6)


def chosen(logits: npt.NDArray[np.float64], family: str, bias: npt.NDArray[np.float64], k: int) -> list[int]:
    """The experts of one token by the published rule of each family, from the router's scores."""
    if family not in ("deepseek_v3", "glm4_moe"):
        return sorted(range(N_EXPERTS), key=lambda expert: -logits[expert])[:k]
    # DeepSeek-V3 (arXiv 2412.19437, section 2.1.2): a bias takes part in the choice; the two best groups by the sum of
    # the two best scores of each.
    scores = 1 / (1 + np.exp(-logits)) + bias
    size = N_EXPERTS // 4
    groups = sorted(range(4), key=lambda group: -np.sort(scores[group * size :][:size])[-2:].sum())[:2]
    allowed = [expert for expert in range(N_EXPERTS) if expert // size in groups]
    return sorted(allowed, key=lambda expert: -scores[expert])[:k]


def own_count(folder: Path, family: str, windows: list[list[int]], first: int, k: int) -> npt.NDArray[np.int64]:
    """Counts from the product of the router's input and its weight in float64, one window at a time."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    counts = np.zeros((N_LAYER, N_EXPERTS), dtype=np.int64)
    inputs: dict[int, Any] = {}
    routers = {}
    for number, layer in enumerate(model.model.layers):
        if number >= first:
            router = getattr(layer.mlp, "gate", None) or layer.mlp.router
            routers[number] = router
            router.register_forward_pre_hook(lambda _, given, number=number: inputs.__setitem__(number, given[0]))
    for window in windows:
        with torch.no_grad():
            model(torch.tensor([window]))
        for number, router in routers.items():
            x = inputs[number].reshape(len(window), -1).numpy().astype(np.float64)
            logits = x @ router.weight.detach().numpy().astype(np.float64).T
            if getattr(router, "bias", None) is not None:
                logits = logits + router.bias.detach().numpy()
            correction = getattr(router, "e_score_correction_bias", torch.zeros(N_EXPERTS)).detach().numpy()
            for token in logits:
                for expert in chosen(token, family, correction.astype(np.float64), k):
                    counts[number, expert] += 1
    return counts


@pytest.mark.parametrize("family", FAMILIES)
def test_choices_are_those_of_the_routers_scores(family: str, text: list[Path], tmp_path: Path) -> None:
    name, given, k, first = FAMILIES[family]
    given = {**given, "num_experts_per_tok": k}
    folder = make_model(tmp_path / "model", getattr(transformers, f"{name}Config")(**given))
    report = profile(ProfileOptions(folder, tuple(text), tmp_path / "out", context=CONTEXT, batch=3, device="cpu"))
    names = ["experts_0_a.pt", "experts_1_b.pt"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [*names, "profile.json"]
    for number, path in enumerate(text):
        saved = torch.load(tmp_path / "out" / names[number], weights_only=True)
        assert list(saved) == ["logical_count"]
        found = saved["logical_count"]
        assert (found.dtype, found.shape) == (torch.int64, (1, N_LAYER, N_EXPERTS))
        windows = windows_of([path])
        np.testing.assert_array_equal(found[0].numpy(), own_count(folder, family, windows, first, k))
        tokens = sum(map(len, windows))
        assert found.sum(dim=2).tolist() == [[0] * first + [k * tokens] * (N_LAYER - first)]
        assert report.values["workload_tokens"][number] == tokens
    shares = [layer["chosen_share"] for layer in report.values["layers"]]
    assert shares == [0.0] * first + [k / N_EXPERTS] * (N_LAYER - first)


@pytest.mark.parametrize(
    ("family", "experts_apart"),
    [("mixtral", True), ("qwen3_moe", True), ("deepseek_v3", True), ("gpt_oss", False)],
)
def test_experts_that_lie_apart_in_the_files_are_read_into_their_places(
    family: str, experts_apart: bool, text: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layer by layer and whole give the same bytes, and the weights are those that the library makes itself."""
    name, given, k, _ = FAMILIES[family]
    folder = make_model(
        tmp_path / "model", getattr(transformers, f"{name}Config")(**{**given, "num_experts_per_tok": k})
    )
    stored = [*load_file(folder / "model.safetensors")]
    assert any(".experts.7." in each for each in stored) == experts_apart
    options: dict[str, Any] = {"context": CONTEXT, "batch": 3, "device": "cpu"}
    whole = profile(ProfileOptions(folder, tuple(text), tmp_path / "whole", **options))
    monkeypatch.setattr(Room, "holds", lambda *_: False)
    loaded: dict[int, dict[str, torch.Tensor]] = {}
    run = LayeredModel.run

    def keeping(model: LayeredModel, tokens: torch.Tensor, layer: int, hidden: torch.Tensor | None) -> torch.Tensor:
        answer = run(model, tokens, layer, hidden)
        loaded[layer] = {key: value.clone() for key, value in model._layers[layer].named_parameters()}
        return answer

    monkeypatch.setattr(LayeredModel, "run", keeping)
    assert profile(ProfileOptions(folder, tuple(text), tmp_path / "out", **options)) == whole
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    library = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)
    for number, layer in enumerate(library.layers):
        for key, value in layer.named_parameters():
            torch.testing.assert_close(loaded[number][key], value, rtol=0, atol=0)
    if experts_apart:
        tensors = load_file(folder / "model.safetensors")
        taken = next(each for each in tensors if ".2." in each and ".experts.7." in each)
        del tensors[taken]
        save_file(tensors, folder / "model.safetensors")
        message = (
            rf"^{re.escape(str(folder))}: the weights lack 1 tensors that config\.json asks for, such as 'layers\.2\."
        )
        with pytest.raises(InputError, match=message):
            profile(ProfileOptions(folder, tuple(text), tmp_path / "less", **options))


def test_the_command_shows_experts_and_counts_go_on(
    text: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_model(
        tmp_path / "model", transformers.Qwen3MoeConfig(**FAMILIES["qwen3_moe"][1], num_experts_per_tok=2)
    )
    parser = build_parser("hotsplit", "", [command])
    arguments = ["profile", "--model", str(folder), "--device", "cpu", "--window", "16", "--data", *map(str, text)]
    assert run_command(parser, [*arguments, "--output", str(tmp_path / "whole")]) == 0
    out = capsys.readouterr().out
    assert "experts" in out
    assert "25.0%" in out
    assert f"2 files of statistics in {tmp_path / 'whole'}" in out

    def interrupting(_: object) -> str:
        raise KeyboardInterrupt

    arguments += ["--output", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr("exporter.commands.profile._progress_line", interrupting)
        assert run_command(parser, [*arguments, "--checkpoint-seconds", "0"]) == 130
    assert run_command(parser, [*arguments, "--resume"]) == 0
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    message = f"{folder}: the choices of its router are counted, which have no threshold; leave out --active-above"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        profile(ProfileOptions(folder, tuple(text), tmp_path / "more", threshold=0.5, device="cpu"))
    assert run_command(parser, arguments) == 2
    assert "already holds statistics (experts_0_a.pt, ...)" in capsys.readouterr().err
