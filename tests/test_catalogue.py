from pathlib import Path

import pytest

from planner.base.errors import FaultsError, InputError
from planner.catalogue.entries import SHIPPED, Catalogue, HotnessCurve, PcieLink, load_catalogue
from planner.config.schema import parse_or_none
from planner.engines.powerinfer.account import account_for
from planner.engines.powerinfer.architectures import ARCHITECTURES
from planner.engines.powerinfer.budget import stated_budget
from planner.engines.powerinfer.declared import dimensions_of
from planner.engines.powerinfer.geometry import geometry_from_dimensions


def test_every_figure_has_a_source(catalogue: Catalogue) -> None:
    entries = {**catalogue.models, **catalogue.gpus, **catalogue.hosts}
    assert {name: entry.unsourced() for name, entry in entries.items() if entry.unsourced()} == {}
    assert all(entry.title for entry in entries.values())


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
    predictors = 80 * 1792 * (8192 + 28672) * 2
    norms = (80 * 2 + 1) * 8192 * 4
    assert geometry.dense_bytes == attention + predictors + norms + 32000 * 8192 * 2
    assert account_for(geometry, stated_budget(1 << 40)).units_bytes > geometry.ffn_bytes


def test_estimated_predictor_ranks_follow_their_rule(catalogue: Catalogue) -> None:
    for name, model in catalogue.models.items():
        source = model.source_of("predictor_rank") or ""
        n_embd, n_ff = model.n_embd, model.n_ff[0] * model.n_expert
        if not source.startswith("estimate"):
            continue
        gated = ARCHITECTURES[model.architecture].gated
        kv_width = n_embd * (model.n_head_kv or model.n_head) // model.n_head
        ffn = (3 if gated else 2) * n_embd * n_ff
        others = model.n_layer * (2 * n_embd * (n_embd + kv_width) + ffn) + model.n_vocab * n_embd * (1 + gated)

        def miss(rank: int, others: int = others, width: int = model.n_layer * (n_embd + n_ff)) -> float:
            return abs(rank * width / (others + rank * width) - 0.0678)

        assert model.predictor_rank == min(range(256, 8192, 256), key=miss), name


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


def test_gpus_reach_from_8_gb_cards_to_h200(catalogue: Catalogue) -> None:
    sizes = {name: gpu.vram for name, gpu in catalogue.gpus.items()}
    assert min(sizes.values()) == 8 << 30
    assert sizes["h200-141gb"] == 141 * 10**9
    assert catalogue.gpus["h200-141gb"].bandwidth == 4.8e12
    assert catalogue.gpus["rtx-4090"].bandwidth == 1008 * 10**9
    assert catalogue.hosts["pc-high"].bandwidth == 67_200_000_000
    assert catalogue.hosts["pc-low"].memory == 64 << 30


def test_a_link_carries_what_its_generation_does() -> None:
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
        f"{file}: models.mine.n_f: found the key 'n_f', expected one of title, sources, architecture, n_layer, n_embd, "
        "n_ff, n_head, n_head_kv, n_vocab, context_train, n_expert, attn_norm_2, predictor_rank, parameters_b, "
        "active_share, statistics; did you mean 'n_ff'? (line 6)",
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
    assert "their statistics are published beside their GGUF files, in the folder `activation`" in page
