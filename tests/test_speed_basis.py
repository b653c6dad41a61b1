import pytest

from planner.base.record import replace
from planner.studies.cpu_rates import CpuRates
from planner.studies.speed import Bandwidths, SpeedParameters, Work
from planner.studies.speed_basis import Basis, Inputs, basis_words, estimate_range, range_words

# Only whole matrices on the host: 30 GB at 75 % of 40 GB/s take a second.
INPUTS = Inputs(
    Work(64, 0, 30 * 10**9, 0, 0, [0], [0], [0.0], 0.2),
    Bandwidths(1e12, 40e9),
    SpeedParameters(layer_s=0, sync_s=0),
    (("host bandwidth", Basis.PUBLISHED), ("host efficiency", Basis.ASSUMED)),
)


def test_an_assumed_input_makes_a_range() -> None:
    found = estimate_range(INPUTS)
    assert found.tokens_per_s == pytest.approx(1)
    assert found.slow_tokens_per_s == pytest.approx(0.60 / 0.75)
    assert found.fast_tokens_per_s == pytest.approx(0.90 / 0.75)
    assert range_words(found) == "0.80 to 1.20 tokens/s"
    assert basis_words(found) == "published: host bandwidth; assumed: host efficiency"


def test_known_inputs_make_a_point() -> None:
    measured = replace(INPUTS, basis=(("host bandwidth", Basis.MEASURED), ("host efficiency", Basis.MEASURED)))
    found = estimate_range(measured)
    assert found.slow_tokens_per_s == found.fast_tokens_per_s == found.tokens_per_s
    assert range_words(found) == "1.00 tokens/s"
    assert basis_words(found) == "measured: host bandwidth, host efficiency"


def _rows(name: str) -> Inputs:
    """Half of 18 GB in rows of 1,152 bytes of Q4_0, on one core, with memory that never binds: 9 / 10.2 + 1 seconds."""
    return Inputs(
        Work(64, 0, 0, 0, 0, [18 * 10**9], [0], [0.0], 0.5, [("Q4_0", 1152)] * 3),
        Bandwidths(1e12, 1e15, cpu=CpuRates(cores=1)),
        SpeedParameters(host_efficiency=1, layer_s=0),
        ((name, Basis.ASSUMED),),
    )


@pytest.mark.parametrize(
    ("name", "slow_s", "fast_s"),
    [
        # The point is always within the range, and here it has one core only.
        ("cores", 9 / 10.2 + 1, (9 / 10.2 + 1) / 24),
        ("arithmetic", 9 / 10.2 + 1.35, 9 / 10.2 + 1 / 1.35),
        ("scattered rows", 9 / 10.2 * 1.35 + 1, 9 / 10.2 / 1.35 + 1),
    ],
)
def test_each_assumed_input_moves_the_host_between_its_ends(name: str, slow_s: float, fast_s: float) -> None:
    found = estimate_range(_rows(name))
    assert found.tokens_per_s == pytest.approx(1 / (9 / 10.2 + 1))
    assert found.slow_tokens_per_s == pytest.approx(1 / slow_s)
    assert found.fast_tokens_per_s == pytest.approx(1 / fast_s)
