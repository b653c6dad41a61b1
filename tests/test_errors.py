import pickle

from planner.base.errors import FaultsError, HotsplitError, InputError, NoAnswerError


def test_exit_codes_are_part_of_the_contract() -> None:
    assert (HotsplitError.exit_code, InputError.exit_code, FaultsError.exit_code, NoAnswerError.exit_code) == (
        2,
        2,
        2,
        1,
    )


def test_several_faults_are_several_lines() -> None:
    error = FaultsError(line for line in ("first", "second"))
    assert error.lines == ("first", "second")
    assert str(error) == "first\nsecond"


def test_faults_travel_between_processes_whole() -> None:
    error = pickle.loads(pickle.dumps(FaultsError(["first", "second"])))
    assert isinstance(error, FaultsError)
    assert error.lines == ("first", "second")
    assert str(pickle.loads(pickle.dumps(InputError("one")))) == "one"
