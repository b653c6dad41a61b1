from pathlib import Path

import pytest

from planner.base.errors import FaultsError, InputError
from planner.catalogue.entries import (
    SHIPPED,
    Catalogue,
    HotnessCurve,
    PcieLink,
    gpu_entry_of,
    load_catalogue,
    reserved_by_driver,
)
from planner.catalogue.moe_models import load_moe_models
from planner.config.schema import parse_or_none
from planner.engines.powerinfer.account import account_for
from planner.engines.powerinfer.architectures import ARCHITECTURES
from planner.engines.powerinfer.budget import stated_budget
from planner.engines.powerinfer.declared import dimensions_of
from planner.engines.powerinfer.geometry import geometry_from_dimensions


def test_every_figure_has_a_source_and_says_how_sure_it_is(catalogue: Catalogue) -> None:
    entries = {**catalogue.models, **catalogue.gpus, **catalogue.hosts, **load_moe_models()}
    assert {name: entry.unsourced() for name, entry in entries.items() if entry.unsourced()} == {}
    assert {name: entry.unrated() for name, entry in entries.items() if entry.unrated()} == {}
    assert all(entry.title for entry in entries.values())
    for path in catalogue.statistics.values():
        comments = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        assert sum(line.startswith("# Source: ") for line in comments) == 1, path
        assert sum(line.startswith(("# Confidence: high", "# Confidence: low")) for line in comments) == 1, path


def test_a_figure_without_confidence_is_told_from_one_without_a_source(tmp_path: Path) -> None:
    (tmp_path / "hosts.yaml").write_text(
        "hosts:\n  mine:\n    bandwidth: 1 GB/s\n    memory: 8GiB\n    channels: 2\n    sources:\n"
        "      - {figures: [bandwidth], source: a sheet}\n"
        "      - {figures: [memory], source: a look, confidence: low}\n"
    )
    mine = load_catalogue(tmp_path).hosts["mine"]
    assert (mine.unsourced(), mine.unrated()) == (["channels"], ["bandwidth", "channels"])


def test_estimates_say_how_far_off_they_may_be(catalogue: Catalogue) -> None:
    for name, model in catalogue.models.items():
        figure = "predictor_rank" if model.predictor_rank_sum is None else "predictor_rank_sum"
        source = model.rated_source_of(figure)
        assert source is not None
        logged = name in {"falcon-40b", "relu-llama-7b", "relu-llama-13b", "relu-llama-70b"}
        assert (source.confidence, bool(source.likely_error)) == (("high", False) if logged else ("low", True)), name
        assert source.source.startswith("estimate: ") is not logged


def test_contexts_nobody_has_verified_say_so(catalogue: Catalogue) -> None:
    assert catalogue.models["relu-llama-7b"].context_train == 2048
    for name in ("relu-llama-13b", "relu-llama-70b"):
        source = catalogue.models[name].rated_source_of("context_train")
        assert source is not None
        assert source.confidence == "low"
        assert source.source.startswith("unverified: ")


def test_the_models_that_were_promised_are_there(catalogue: Catalogue) -> None:
    promised = [f"opt-{size}" for size in ("6.7b", "13b", "30b", "66b", "175b")]
    promised += ["falcon-40b", "relu-llama-7b", "relu-llama-13b", "relu-llama-70b", "prosparse-7b", "prosparse-13b"]
    assert {*promised, "bamboo-7b", "turbosparse-mixtral"} <= set(catalogue.models)


def test_dimensions_make_the_published_number_of_parameters(catalogue: Catalogue) -> None:
    for name, model in catalogue.models.items():
        gated = ARCHITECTURES[model.architecture].gated
        n_embd, n_ff = model.n_embd, model.n_ff[0] * model.n_expert
        kv_width = n_embd * (model.n_head_kv or model.n_head) // model.n_head
        attention = 2 * n_embd * n_embd + 2 * n_embd * kv_width
        ffn = (3 if gated else 2) * n_embd * n_ff
        # OPT and Falcon use the token embedding for the output as well.
        embedding = model.n_vocab * n_embd * (2 if gated else 1)
        parameters = model.n_layer * (attention + ffn) + embedding
        assert model.parameters_b is not None
        assert parameters / 1e9 == pytest.approx(model.parameters_b, rel=0.05), name


def test_geometry_agrees_with_the_same_arithmetic(catalogue: Catalogue) -> None:
    model = catalogue.models["relu-llama-70b"]
    geometry = geometry_from_dimensions(dimensions_of(model, "F16"))
    assert geometry.ffn_bytes == 80 * 3 * 8192 * 28672 * 2
    attention = 80 * (2 * 8192 * 8192 + 2 * 8192 * 1024) * 2
    predictors = 162_816 * (8192 + 28672) * 2
    norms = (80 * 2 + 1) * 8192 * 4
    assert geometry.dense_bytes == attention + predictors + norms + 32000 * 8192 * 2
    assert account_for(geometry, stated_budget(1 << 40)).units_bytes > geometry.ffn_bytes


def test_sums_of_predictor_ranks_are_met_in_steps_of_256(catalogue: Catalogue) -> None:
    sums = {"relu-llama-7b": 55_296, "relu-llama-13b": 60_416, "relu-llama-70b": 162_816, "falcon-40b": 83_968}
    for name, total in sums.items():
        model = catalogue.models[name]
        ranks = model.predictor_ranks()
        assert ranks is not None
        assert (len(ranks), sum(ranks), {rank % 256 for rank in ranks}) == (model.n_layer, total, {0}), name
    seen = catalogue.models["relu-llama-7b"].predictor_ranks()
    assert seen is not None
    assert (seen[0], seen[13:22]) == (1024, (1280, 1536, 1536, 1536, 1536, 1536, 1792, 1792, 2048))
    # The 155 steps that are left for 22 layers are 7 for each, and one more for the last.
    assert {*seen[1:13], *seen[22:31]} == {1792}
    assert seen[31] == 2048
    # 236 steps for 40 layers: the 4 that get 5 come first.
    assert catalogue.models["relu-llama-13b"].predictor_ranks() == (1280,) * 4 + (1536,) * 36


_SHAPE = "architecture: llama, n_layer: 3, n_embd: 32, n_ff: 32, n_head: 1, n_vocab: 8"


@pytest.mark.parametrize(
    ("figures", "ranks"),
    [
        ("predictor_rank: 64", (64, 64, 64)),
        ("predictor_rank: [64, 32, 96]", (64, 32, 96)),
        ("predictor_rank: 0", None),
        ("predictor_rank_sum: 1024", (256, 256, 512)),
        ("predictor_rank: [null, 100, null], predictor_rank_sum: 868", (256, 100, 512)),
        ("n_expert: 1", None),
    ],
)
def test_forms_of_predictor_ranks(tmp_path: Path, figures: str, ranks: tuple[int, ...] | None) -> None:
    (tmp_path / "models.yaml").write_text(f"models:\n  mine: {{{_SHAPE}, {figures}}}\n")
    assert load_catalogue(tmp_path).models["mine"].predictor_ranks() == ranks


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ("predictor_rank: [1, 2]", "predictor_rank to be one number or a list of 3, one for each layer"),
        ("predictor_rank: [1, null, 2]", "predictor_rank_sum, as predictor_rank is not known for every layer"),
        (
            "predictor_rank: 256, predictor_rank_sum: 768",
            "predictor_rank_sum only where predictor_rank is not known for every layer",
        ),
        (
            "predictor_rank_sum: 1000",
            "a predictor_rank_sum that leaves 3 layers a multiple of 256, at least that for each, not 1000",
        ),
        (
            "predictor_rank: [512, null, null], predictor_rank_sum: 768",
            "a predictor_rank_sum that leaves 2 layers a multiple of 256, at least that for each, not 256",
        ),
    ],
)
def test_ranks_that_do_not_fit_together(tmp_path: Path, figures: str, expected: str) -> None:
    (tmp_path / "models.yaml").write_text(f"models:\n  mine: {{{_SHAPE}, {figures}}}\n")
    with pytest.raises(FaultsError) as caught:
        load_catalogue(tmp_path)
    assert f", expected {expected} (line 2)" in str(caught.value)


def test_a_published_file_may_have_a_tensor_of_another_type(catalogue: Catalogue, tmp_path: Path) -> None:
    model = catalogue.models["relu-llama-70b"]
    assert dimensions_of(model, "q4_0").tensor_types == {"output.weight": "Q4_0"}
    assert dimensions_of(model, "Q5_0").tensor_types == {}
    (tmp_path / "models.yaml").write_text(
        f"models:\n  mine: {{{_SHAPE}, tensor_types: [{{quantisation: F16, tensor: output.weight, type: Q9}}]}}\n"
    )
    with pytest.raises(FaultsError) as caught:
        load_catalogue(tmp_path)
    assert "models.mine.tensor_types[0]: found " in str(caught.value)
    assert "expected a type that is one of F32, F16, Q4_0" in str(caught.value)


def test_estimated_predictor_ranks_follow_their_rule(catalogue: Catalogue) -> None:
    computed = 0
    for name, model in catalogue.models.items():
        source = model.source_of("predictor_rank") or ""
        n_embd, n_ff = model.n_embd, model.n_ff[0] * model.n_expert
        if not source.startswith("estimate: multiple of 256"):
            continue
        gated = ARCHITECTURES[model.architecture].gated
        kv_width = n_embd * (model.n_head_kv or model.n_head) // model.n_head
        ffn = (3 if gated else 2) * n_embd * n_ff
        others = model.n_layer * (2 * n_embd * (n_embd + kv_width) + ffn) + model.n_vocab * n_embd * (1 + gated)

        def miss(rank: int, others: int = others, width: int = model.n_layer * (n_embd + n_ff)) -> float:
            return abs(rank * width / (others + rank * width) - 0.0678)

        assert model.predictor_rank == (min(range(256, 8192, 256), key=miss),), name
        computed += 1
    assert computed == 7


def test_bandwidths_are_bus_width_times_data_rate(catalogue: Catalogue) -> None:
    computed = 0
    for name, gpu in catalogue.gpus.items():
        if gpu.bus_bits is not None and gpu.gigabits_per_pin is not None:
            assert gpu.bandwidth == pytest.approx(gpu.bus_bits / 8 * gpu.gigabits_per_pin * 1e9), name
            computed += 1
    assert computed >= 20
    for name, host in catalogue.hosts.items():
        if host.megatransfers is not None and host.channels is not None:
            assert host.bandwidth == pytest.approx(host.megatransfers * 1e6 * 8 * host.channels), name


def test_gpus_reach_from_8_gb_cards_to_b300(catalogue: Catalogue) -> None:
    sizes = {name: gpu.vram >> 20 for name, gpu in catalogue.gpus.items()}
    assert (min(sizes.values()), max(sizes.values())) == (7607, 294_912)
    assert (sizes["h200-141gb"], sizes["b300"], sizes["rtx-5070-ti"]) == (143_771, 275_040, 16_303)
    assert catalogue.gpus["h200-141gb"].bandwidth == 4.8e12
    assert catalogue.gpus["rtx-4090"].bandwidth == 1008 * 10**9
    assert catalogue.hosts["pc-high"].bandwidth == 67_200_000_000
    assert catalogue.hosts["pc-low"].memory == 64 << 30


@pytest.mark.parametrize(
    ("name", "cuda_mib"),
    [
        ("h100-80gb-sxm", 81_080),  # ggml prints 81081 MiB
        ("h200-141gb", 143_157),
        ("rtx-5070-ti", 15_808),
        ("rtx-4060-ti-16gb", 15_944),
        ("t4", 14_912),
        ("a100-80gb-pcie", 81_154),
        ("gb10-dgx-spark", 124_610),  # CUDA's own total already
        ("rtx-4080", 16_376 - 498),  # no figure of its own, up to 33 GiB
        ("b200", 183_359 - 769),  # no figure of its own, larger
    ],
)
def test_cudas_total_is_less_than_the_boards(catalogue: Catalogue, name: str, cuda_mib: int) -> None:
    assert catalogue.gpus[name].cuda_total_bytes == cuda_mib << 20


def test_what_the_driver_keeps_is_between_the_figures_that_are_known(catalogue: Catalogue) -> None:
    known = {name: gpu.reserved >> 20 for name, gpu in catalogue.gpus.items() if gpu.reserved}
    assert len(known) == 24
    small = {n_mib for name, n_mib in known.items() if catalogue.gpus[name].vram <= 33 << 30}
    assert (min(known.values()), max(small), max(known.values())) == (240, 498, 769)
    assert (reserved_by_driver(33 << 30), reserved_by_driver((33 << 30) + 1)) == (498 << 20, 769 << 20)
    assert reserved_by_driver(2 << 30) == 256 << 20


@pytest.mark.parametrize(
    ("name", "total_mib", "entry"),
    [
        ("NVIDIA GeForce RTX 3080", 10_240, "rtx-3080-10gb"),
        ("NVIDIA GeForce RTX 3080", 12_288, "rtx-3080-12gb"),
        ("NVIDIA GeForce RTX 3080 Laptop GPU", 8192, None),  # the laptop's 8 GB form has no entry
        ("NVIDIA GeForce RTX 5060 Ti", 8151, "rtx-5060-ti-8gb"),
        ("NVIDIA GeForce RTX 5060 Ti", 16_310, "rtx-5060-ti-16gb"),  # as Windows and WSL print it
        ("Tesla T4", 15_109, "t4"),  # as drivers before R520 print it
        ("NVIDIA A100-SXM4-80GB", 81_251, "a100-80gb-sxm"),
        ("Tesla P40", 24_576, "p40"),  # with ECC turned off
        ("Tesla V100-PCIE-32GB", 32_768, "v100-32gb"),
        ("NVIDIA GB10", 124_610, "gb10-dgx-spark"),
        ("NVIDIA H200", 143_771, "h200-141gb"),
        ("NVIDIA H200", 71_000, None),
        ("NVIDIA GeForce RTX 9090", 32_607, None),
    ],
)
def test_a_gpu_is_known_by_name_and_total(catalogue: Catalogue, name: str, total_mib: int, entry: str | None) -> None:
    assert gpu_entry_of(catalogue, name, total_mib << 20) is (None if entry is None else catalogue.gpus[entry])


def test_every_gpu_finds_its_own_entry(catalogue: Catalogue) -> None:
    for name, gpu in catalogue.gpus.items():
        for spelled in gpu.nvml_name:
            found = gpu_entry_of(catalogue, spelled, gpu.vram)
            assert found is gpu, name


def test_a_users_gpu_comes_before_a_shipped_one_and_may_go_by_its_title(tmp_path: Path) -> None:
    (tmp_path / "gpus.yaml").write_text(
        "gpus:\n  mine: {title: Tesla T4, vram: 15360MiB, bandwidth: 300}\n  other: {title: A card, vram: 4GiB, "
        "bandwidth: 100}\n"
    )
    found = load_catalogue(tmp_path)
    assert gpu_entry_of(found, "Tesla T4", 15_360 << 20) is found.gpus["mine"]
    assert gpu_entry_of(found, "A card", 4 << 30) is found.gpus["other"]


def test_a_driver_that_keeps_the_whole_card_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gpus.yaml").write_text("gpus:\n  mine: {vram: 4GiB, reserved: 4GiB, bandwidth: 100}\n")
    with pytest.raises(FaultsError, match="expected a reserved that is less than vram"):
        load_catalogue(tmp_path)


def test_a_link_carries_what_its_generation_does() -> None:
    assert PcieLink(generation=6, lanes=16).bytes_per_s() == 118_000_000_000
    assert PcieLink(generation=4, lanes=16).bytes_per_s() == 31_507_692_307
    assert PcieLink(generation=3, lanes=8).bytes_per_s() == 7_876_923_076


def test_statistics_that_models_name_are_shipped(catalogue: Catalogue) -> None:
    named = {model.statistics.catalogue for model in catalogue.models.values() if model.statistics}
    assert named - {None} == {"relullama-7b", "relullama-13b", "relullama-70b"}
    assert named - {None} <= set(catalogue.statistics)
    assert all(model.statistics is not None for model in catalogue.models.values())


def test_a_users_directory_comes_on_top(tmp_path: Path) -> None:
    (tmp_path / "gpus.yaml").write_text(
        "gpus:\n  rtx-4090: {vram: 48GiB, bandwidth: 1 TB/s, price: 3000}\n  mine: {vram: 6GiB, bandwidth: 200}\n"
    )
    found = load_catalogue(tmp_path)
    assert found.gpus["rtx-4090"].vram == 48 << 30
    assert found.gpus["rtx-4090"].price == 3000
    assert found.gpus["mine"].bandwidth == 200 * 10**9
    assert found.origins["gpus", "mine"] == tmp_path / "gpus.yaml"
    assert found.origins["gpus", "rtx-3090"] == SHIPPED / "gpus.yaml"
    assert found.gpus["mine"].unsourced() == ["bandwidth", "vram"]
    assert list(found.models) == list(load_catalogue().models)


def test_a_figure_with_a_source_is_given_even_where_it_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text(
        "models:\n  mine: {architecture: llama, n_layer: 1, n_embd: 32, n_ff: 32, n_head: 1, n_vocab: 8, n_expert: 1,\n"
        "    predictor_rank: 0, sources: [{figures: [predictor_rank, n_ff], source: its card}]}\n"
    )
    mine = load_catalogue(tmp_path).models["mine"]
    assert mine.figures() == ["architecture", "n_layer", "n_embd", "n_ff", "n_head", "n_vocab", "predictor_rank"]
    assert mine.unsourced() == ["architecture", "n_embd", "n_head", "n_layer", "n_vocab"]


def test_a_directory_without_a_catalogue_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_catalogue(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: found no catalogue, expected a directory with models.yaml, gpus.yaml, hosts.yaml or "
        "statistics/*.csv"
    )


def test_faults_of_an_entry_come_together_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(
        "models:\n  mine:\n    architecture: mamba\n    n_layer: 2\n    n_embd: 64\n    n_f: 100\n    n_head: 4\n"
        "    n_vocab: 10\n    sources:\n      - {figures: [n_lay], source: here}\n"
    )
    with pytest.raises(FaultsError) as caught:
        load_catalogue(tmp_path)
    assert caught.value.lines == (
        f"{file}: models.mine.architecture: found 'mamba', expected an architecture: {', '.join(ARCHITECTURES)} "
        "(line 3)",
        f"{file}: models.mine.n_ff: found nothing, expected neurons of a layer, or a list for all layers (line 3)",
        f"{file}: models.mine.n_f: found the key 'n_f', expected one of title, sources, origin, architecture, n_layer, "
        "n_embd, n_ff, n_head, n_head_kv, n_vocab, context_train, n_expert, attn_norm_2, predictor_rank, "
        "predictor_rank_sum, parameters_b, active_share, statistics, tensor_types; did you mean 'n_ff'? (line 6)",
    )


def test_names_are_plain_words(tmp_path: Path) -> None:
    file = tmp_path / "hosts.yaml"
    file.write_text('hosts:\n  "a/b": {bandwidth: 10}\n')
    with pytest.raises(FaultsError) as caught:
        load_catalogue(tmp_path)
    assert str(caught.value) == (
        f"{file}: hosts.a/b: found the name 'a/b', expected letters, digits and any of . _ - + (line 2)"
    )


@pytest.mark.parametrize(
    "curve",
    [
        {"hot_share": 0.2},
        {"hot_share": 0.5, "activation_share": 0.4},
        {"points": [[0.2, 0.5], [0.1, 0.8]]},
        {"points": [[0.2, 0.3], [0.4, 0.9]]},
        {"points": [[0.1, 0.5]], "hot_share": 0.1},
    ],
)
def test_a_curve_that_is_none_is_refused(curve: dict[str, object]) -> None:
    assert parse_or_none(HotnessCurve, curve) is None


def test_a_curve_of_one_point_or_several() -> None:
    def pairs(curve: dict[str, object]) -> tuple[tuple[float, float], ...]:
        found = parse_or_none(HotnessCurve, curve)
        assert found is not None
        return found.pairs()

    assert pairs({"hot_share": 0.26, "activation_share": 0.8}) == ((0.26, 0.8),)
    assert pairs({"points": [[0.1, 0.5], [0.3, 0.8], [1, 1]]}) == ((0.1, 0.5), (0.3, 0.8), (1.0, 1.0))


@pytest.mark.parametrize(
    ("entry", "published"),
    [
        ("prosparse-7b", "PowerInfer/prosparse-llama-2-7b-gguf"),
        ("prosparse-13b", "PowerInfer/prosparse-llama-2-7b-gguf and -13b-gguf"),
        ("bamboo-7b", "PowerInfer/Bamboo-base-v0.1-gguf"),
    ],
)
def test_the_page_and_the_catalogue_say_the_same_of_published_statistics(
    catalogue: Catalogue, entry: str, published: str
) -> None:
    source = catalogue.models[entry].source_of("statistics")
    assert source is not None
    assert f"own are published ({published}" in source
    assert source.endswith("folder activation), but no figures of them are here")
    page = (Path(__file__).parent.parent / "docs" / "profile.md").read_text(encoding="utf-8")
    assert published.split(" ", maxsplit=1)[0] in page
    assert "take the statistics that are published beside the" in page


def test_contexts_of_cuda_are_the_same_for_the_gpu_at_hand_and_for_studies(catalogue: Catalogue) -> None:
    from planner.hardware.cuda_contexts import published_context_bytes

    with_context = [entry for entry in catalogue.gpus.values() if entry.context is not None]
    assert len(with_context) >= 6
    for entry in catalogue.gpus.values():
        for name in entry.nvml_name or (entry.title,):
            if entry.maker == "NVIDIA":
                assert published_context_bytes(name) == entry.context, name
