import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.base.errors import InputError
from planner.config.yaml_file import MAX_DEPTH, parse_yaml, read_yaml


def value_of(text: str) -> object:
    return parse_yaml(text, "study.yaml").value


def fault_of(text: str) -> str:
    with pytest.raises(InputError) as caught:
        parse_yaml(text, "study.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("scalar", "expected"),
    [
        ("8", 8),
        ("-3", -3),
        ("010", 10),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("7.", 7.0),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("8GiB", "8GiB"),
        ("'8'", "8"),
        ('"true"', "true"),
        ("!!str 8", "8"),
        ("! 8", "8"),
        ("!!int 8", 8),
        (".inf", math.inf),
        ("-.INF", -math.inf),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(scalar: str, expected: object) -> None:
    found = value_of(f"x: {scalar}")
    assert found == {"x": expected}
    assert isinstance(found, dict)
    assert type(found["x"]) is type(expected)


def test_an_endless_number_is_text_and_costs_nothing() -> None:
    digits = "9" * 100_000
    assert value_of(f"x: {digits}") == {"x": digits}


def test_collections_aliases_and_merge_keys() -> None:
    text = (
        "base: &b {gpu: a, host: h}\nlist: [1, [2, 3], *b]\nmore:\n  <<: *b\n  gpu: c\n"
        "both:\n  <<: [{k: 1}, {k: 2, j: 3}]\n"
    )
    assert value_of(text) == {
        "base": {"gpu": "a", "host": "h"},
        "list": [1, [2, 3], {"gpu": "a", "host": "h"}],
        "more": {"gpu": "c", "host": "h"},
        "both": {"k": 1, "j": 3},
    }


@pytest.mark.parametrize("key", ["'<<'", '"<<"', "!!str <<", "! <<", '"\\x3c<"'])
def test_the_merge_key_in_quotes_is_a_key_like_any_other(key: str) -> None:
    assert value_of(f"a: {{{key}: {{k: 1}}, <<: {{j: 2}}}}\n") == {"a": {"<<": {"k": 1}, "j": 2}}
    assert value_of(f"a: {{<<: {{j: 2}}, {key}: 3}}\n") == {"a": {"<<": 3, "j": 2}}
    # A mapping that is merged brings its keys along, that one included, and no second merge.
    assert value_of(f"a: &a {{{key}: {{k: 1}}}}\nb: {{<<: *a}}\n") == {"a": {"<<": {"k": 1}}, "b": {"<<": {"k": 1}}}


def test_lines_are_known_for_every_value_and_for_what_is_missing() -> None:
    document = parse_yaml("# comment\ngpus:\n  - name: a\n    vram: 8\n  - b\nhosts: {x: 1}\n", "f")
    assert document.line_of(("gpus", 0, "vram")) == 4
    assert document.line_of(("gpus", 1)) == 5
    assert document.line_of(("gpus", 0, "bandwidth")) == 3
    assert document.line_of(("hosts", "x")) == 6
    assert document.line_of(("hosts", 0, "x")) == 6
    assert document.line_of(("hosts", 1, "x")) == 6
    assert document.line_of(("nothing",)) == 2


def test_an_empty_file_is_none() -> None:
    assert value_of("") is None
    assert value_of("# only a comment\n") is None
    assert value_of("---\n...\n") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\na: 2\n", "study.yaml: line 2, column 1: found the key 'a' a second time, expected each key once"),
        (
            "a: !!python/object/apply:os.system [echo]\n",
            "study.yaml: line 1, column 4: found the tag tag:yaml.org,2002:python/object/apply:os.system, "
            "expected plain data",
        ),
        ("a: !custom 3\n", "study.yaml: line 1, column 4: found the tag !custom, expected plain data"),
        ("a: !!int x\n", "study.yaml: line 1, column 4: found 'x' with the tag int, expected a value of that kind"),
        ("a: 1\n---\nb: 2\n", "study.yaml: line 2, column 1: found a second document, expected one"),
        (
            "a: *b\n",
            "study.yaml: line 1, column 4: found the alias *b without an anchor, "
            "expected an alias of a value that comes before it",
        ),
        (
            "a: &b [*b]\n",
            "study.yaml: line 1, column 8: found the alias *b inside its own anchor, "
            "expected an alias of a value that comes before it",
        ),
        ("? [1, 2]\n: 3\n", "study.yaml: line 1, column 3: found a list as a key, expected text"),
        (
            "a: 1\n<<: 3\n",
            "study.yaml: line 2, column 5: found something else under <<, expected a mapping or a list of mappings",
        ),
        (
            "a: &x {k: 1}\n<<: *x\nb: 1\n<<: *x\n",
            "study.yaml: line 4, column 1: found the key '<<' a second time, expected each key once",
        ),
        (
            "{'<<': 1, \"<<\": 2}\n",
            "study.yaml: line 1, column 11: found the key '<<' a second time, expected each key once",
        ),
        (
            "!!merge <<: {k: 1}\n",
            "study.yaml: line 1, column 1: found the tag tag:yaml.org,2002:merge, expected plain data",
        ),
        ("a: &x 1\n*x : 2\n", "study.yaml: line 2, column 1: found an alias or a collection as a key, expected text"),
        ("a: [1\n", "study.yaml: line 2, column 1: did not find expected ',' or ']', expected YAML"),
        ("\t- a\n", "study.yaml: line 1, column 1: found character that cannot start any token, expected YAML"),
        ("a: \x00\n", "study.yaml: found the character U+0000 (control characters are not allowed), expected YAML"),
    ],
)
def test_what_is_not_plain_data_is_refused_with_its_place(text: str, expected: str) -> None:
    assert fault_of(text) == expected


@pytest.mark.parametrize("text", ["a: [1\n", "a: b: c\n", "\t- a\n", "'unclosed", "%YAML 9.9\n---\na", "a: }"])
def test_broken_syntax_is_one_line_with_a_place(text: str) -> None:
    message = fault_of(text)
    assert message.startswith("study.yaml: line ")
    assert message.endswith(", expected YAML")
    assert "\n" not in message


def test_deep_nesting_is_refused_at_once() -> None:
    depth = 200_000
    began = time.process_time()
    # PyYAML 6.0.4 refuses 1,001 levels itself, before it reports the first of them.
    columns = {MAX_DEPTH + 1, 1001}
    assert fault_of("[" * depth) in {
        f"study.yaml: line 1, column {column}: found more than {MAX_DEPTH} levels, expected a configuration"
        for column in columns
    }
    assert time.process_time() - began < 2
    assert value_of("[" * MAX_DEPTH + "]" * MAX_DEPTH) is not None


def test_a_billion_laughs_are_refused_at_once() -> None:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    began = time.process_time()
    assert fault_of("\n".join(lines)) == (
        "study.yaml: line 5, column 55: found more than 100000 values (aliases written out), expected a configuration"
    )
    assert time.process_time() - began < 2


def test_a_file_that_is_too_large_or_not_text_is_refused(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    large.write_bytes(b"a: 1\n" + b"#" * (1 << 20))
    with pytest.raises(InputError) as caught:
        read_yaml(large)
    assert str(caught.value) == f"{large}: found more than 1 MiB, expected a configuration"
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(InputError) as caught:
        read_yaml(binary)
    assert str(caught.value) == f"{binary}: line 2: found a byte that is not UTF-8, expected UTF-8 text"
    with pytest.raises(FileNotFoundError):
        read_yaml(tmp_path / "missing.yaml")


def test_a_byte_order_mark_is_not_content(tmp_path: Path) -> None:
    marked = tmp_path / "marked.yaml"
    marked.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml(marked).value == {"a": 1}


@given(st.text(max_size=60))
def test_any_text_is_data_or_one_line(text: str) -> None:
    try:
        parse_yaml(text, "f")
    except InputError as error:
        assert str(error).startswith("f: ")


plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.text(st.characters(codec="ascii", categories=["L", "N"])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(plain_values)
def test_json_is_read_as_it_is_meant(value: object) -> None:
    import json

    assert value_of(json.dumps(value)) == value


def test_both_parsers_of_the_library_read_alike() -> None:
    program = (
        "import yaml\nfor name in ('CSafeLoader',):\n    yaml.__dict__.pop(name, None)\n"
        "from planner.config.yaml_file import parse_yaml\n"
        "print(parse_yaml('a: &x [1, b]\\nc: *x\\n', 'f').value)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str({"a": [1, "b"], "c": [1, "b"]})
