import pytest

from planner.base.errors import InputError
from planner.base.record import replace
from planner.studies.cpu_rates import CpuRates, Gather
from planner.studies.speed import Bandwidths, SpeedParameters, Work, estimate

ONE = CpuRates(cores=1)


def test_a_stream_hides_reading_behind_arithmetic_or_the_other_way() -> None:
    assert ONE.stream_s([("F16", 33e9)], 100e9) == pytest.approx(1)
    assert ONE.stream_s([("Q4_0", 9e9)], 100e9) == pytest.approx(1)
    assert ONE.stream_s([("Q4_0", 9e9), ("F16", 33e9)], 100e9) == pytest.approx(2)
    assert ONE.stream_s([("F16", 20e9)], 20e9) == pytest.approx(1)


@pytest.mark.parametrize(("cores", "seconds"), [(1, 1.0), (2, 0.5), (100, 10.0 / 50)])
def test_cores_gather_side_by_side_until_the_memory_is_busy(cores: int, seconds: float) -> None:
    # 5 % of rows of 8 KiB: 10 GB/s for each core.
    assert replace(ONE, cores=cores).rows_s("F16", 8192, 10e9, 200e9, 50e9) == pytest.approx(seconds)


def test_arithmetic_comes_on_top_of_rows_that_lie_apart() -> None:
    # Half of rows of 1,152 bytes: 10.2 GB/s; Q4_0: 9 GB/s.
    assert ONE.rows_s("Q4_0", 1152, 9e9, 18e9, 50e9) == pytest.approx(9 / 10.2 + 1)
    assert ONE.rows_s("Q4_0", 1152, 18e9, 18e9, 50e9) == pytest.approx(2)


def test_shares_and_lengths_between_measured_ones() -> None:
    # 10 % of 8 KiB: half way between 0.05 / 10 and 0.15 / 11.7; fewer than 5 %: 10 GB/s.
    assert ONE.rows_s("F16", 8192, 10e9, 100e9, 50e9) == pytest.approx(100 * (0.05 / 10 + 0.15 / 11.7) / 2)
    assert ONE.rows_s("F16", 8192, 1e9, 100e9, 50e9) == pytest.approx(0.1)
    # A length of 2^13.5, half way in the logarithm between 8 and 16 KiB.
    between = ONE.rows_s("F16", round(2**13.5), 50e9, 100e9, 50e9)
    assert between == pytest.approx(50 * (1 / 15.5 + 1 / 18.6) / 2, rel=1e-4)
    assert ONE.rows_s("F16", 100, 50e9, 100e9, 50e9) == pytest.approx(50 / 10.2)


def test_what_all_cores_reach_together_counts_where_it_is_known() -> None:
    cpu = CpuRates(cores=4, gather=(Gather(4096, 0.5, 10e9, 25e9),))
    assert cpu.rows_s("F16", 4096, 25e9, 50e9, 90e9) == pytest.approx(1)


def test_the_engine_reads_down_rows_of_minus_zero_in_f16_only() -> None:
    def read_bytes(kind: str, *, gated: bool) -> int:
        work = Work(64, 0, 10, 0, 0, [3 * 10**9], [0], [0.0], 0.1, [(kind, 8192)] * 3, gated)
        return estimate(work, Bandwidths(1e12, 1e11), SpeedParameters(false_share=0.5)).host_read_bytes - 10

    # 10 % fire and 20 % are selected: two rows of each of those, and down rows of 15 %, or of the 10 % that fire.
    assert read_bytes("F16", gated=True) == 550_000_000
    assert read_bytes("Q4_0", gated=True) == 500_000_000
    assert read_bytes("F16", gated=False) == 500_000_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cores": 0}, "speed: cores: found 0, expected 1 or more"),
        ({"stream_bytes_per_s": 0}, "speed: host: found 0, expected a positive number of bytes per second"),
        ({"arithmetic": (("F16", -1.0),)}, "speed: host: found -1.0, expected a positive number of bytes per second"),
        (
            {"gather": (Gather(4096, 1.0, 1e9),)},
            "speed: gather: expected rows of at least one byte and shares between 0 and 1",
        ),
    ],
)
def test_rates_that_cannot_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        CpuRates(**changes)  # type: ignore[arg-type]
    assert str(caught.value) == message
