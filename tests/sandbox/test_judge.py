"""Proves the comparison rules: what counts as the same output, the same result, and what does not."""

from __future__ import annotations

import pytest

from sandbox.image.values import NotPlain, decode, encode
from sandbox.judge import (
    compare_exact,
    compare_output,
    compare_python,
    compare_result,
    read_expected,
    read_result,
)

SAME_OUTPUT = [
    ("1 2\n3\n", "1 2\n3"),
    ("1 2\n3\n", "1 2  \r\n3\t\r\n\r\n"),
    ("1  2", "1 2"),
    ("", "\n\n"),
    ("0.5", "0.5000004"),
    ("1000000.0", "1000000.9"),
    ("1e3", "1000"),
    ("1e400", "1e400"),
    ("inf", "inf"),
    ("ünï", "ünï"),
    ("3.0", "3"),
]
OTHER_OUTPUT = [
    ("1 2", "1 2 3"),
    ("1 2", "1"),
    ("1\n2", "1 2"),
    ("1\n2", "1"),
    ("1", "1\n2"),
    ("1", "1\x00"),
    ("1", "1\n\x00"),
    ("a b", "a\x00b"),
    ("3", "3.0"),
    ("1000000", "1000001"),
    ("0.5", "0.51"),
    ("nan", "nan"),
    ("0.5", "nan"),
    ("1e999", "inf"),
    ("yes", "Yes"),
    ("1.5", "1.5x"),
    ("1.0", "1_0"),
    ("", "0"),
    ("1\n\n2", "1\n2"),
]


@pytest.mark.parametrize(("expected", "got"), SAME_OUTPUT)
def test_output_that_is_the_same(expected: str, got: str) -> None:
    assert compare_output(expected, got) is None


@pytest.mark.parametrize(("expected", "got"), OTHER_OUTPUT)
def test_output_that_differs(expected: str, got: str) -> None:
    assert compare_output(expected, got)


def test_a_right_prefix_is_not_enough() -> None:
    expected = "\n".join(map(str, range(100)))
    assert compare_output(expected, "\n".join(map(str, range(99))))
    assert compare_output(expected, expected + "\n100")


def test_exact_mode_wants_every_character() -> None:
    assert compare_exact("a\n", "a\n") is None
    assert compare_exact("a\n", "a") == "differs at character 1: expected 2 characters, got 1"


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ("[1, [2, 3]]", (1, (2, 3))),
        ("0.1", 0.1 + 1e-9),
        ("2", 2.0),
        ("2.0", 2),
        ('{"1": "a", "true": 2}', {1: "a", True and "true": 2}),
        ('{"__set__": [1, 2]}', {2, 1}),
        ('{"__set__": [[1, 2]]}', {(1, 2)}),
        ("null", None),
        ("true", True),
        ('"x"', "x"),
    ],
)
def test_results_that_are_the_same(expected: str, got: object) -> None:
    assert compare_result(read_expected(expected), read_result(encode(got))) is None


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ("1", True),
        ("true", 1),
        ("null", 0),
        ("[1, 2]", [1, 2, 3]),
        ("[1, 2]", {1, 2}),
        ('{"__set__": [1, 2]}', [1, 2]),
        ("1.0", float("nan")),
        ("2", 3),
        ('"1"', 1),
        ('{"a": 1}', {"a": 1, "b": 2}),
        ("[1]", 1),
        ("1000000000", 1000000001),
        ("0.5", 10**400),
    ],
)
def test_results_that_differ(expected: str, got: object) -> None:
    assert compare_result(read_expected(expected), read_result(encode(got)))


def test_python_comparison_is_pythons_own() -> None:
    assert compare_python((1, 2), (1, 2)) is None
    assert compare_python((1, 2), [1, 2])
    assert compare_python(True, 1) is None
    assert compare_python(float("nan"), float("nan"))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -5,
        1 << 5000,
        -(1 << 300),
        1.5,
        float("inf"),
        "é\ud800\x00",
        [1, (2, "x")],
        {"$": 1, "a": {3: (4,)}},
        {1, 2},
        frozenset({(1, 2)}),
        b"\x00\xff",
        1 + 2j,
        range(0, 9, 3),
        int,
    ],
)
def test_values_come_back_as_they_went(value: object) -> None:
    back = decode(encode(value))
    assert back == value and type(back) is type(value)


def test_a_class_of_the_solution_never_becomes_a_value() -> None:
    class Always(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    assert type(decode(encode(Always(3)))) is int
    with pytest.raises(NotPlain):
        encode(object())
    for hostile in ({"$": "ref", "v": [1, "x"]}, {"$": "type", "v": "eval"}, {"$": "set", "v": [[]]}, {"$": []}):
        with pytest.raises(NotPlain):
            read_result(hostile)


def test_a_set_made_to_collide_is_refused() -> None:
    prime = (1 << 61) - 1
    with pytest.raises(NotPlain):
        read_result({"$": "set", "v": [k * prime for k in range(1, 20_000)]})
    assert len(read_result({"$": "set", "v": list(range(20_000))})) == 20_000
