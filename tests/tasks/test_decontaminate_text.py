"""Proves that terms, numbers, names, values, formulas and answers are read alike however they are written."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.decontaminate_code import asks_for_code, checked_examples, example_values, name_parts, prose
from tasks.decontaminate_formulas import OTHER_NUMBER, answer_key, formulas, has_formulas, same_formulas, unlike
from tasks.decontaminate_nearest import NEXT, ItemMatrix, around
from tasks.decontaminate_ngrams import covered, covered_share, run_set
from tasks.decontaminate_text import read_terms


@pytest.mark.parametrize(("one", "other"), [
    ("Twenty-five hens", "25 hens"), ("five hundred eggs", "500 eggs"), ("1,000 eggs", "1000 eggs"), ("3.0", "three"),
    ("hasCloseElements", "has_close_elements"), (r"$\frac{3}{4}$ of", "3/4 of"), ("SELLS, a roll.", "selling a roll"),
])  # fmt: skip
def test_two_ways_to_write_one_thing_have_the_same_terms(one, other):
    first, second = read_terms([one]), read_terms([other])
    assert first.hashes.tolist() == second.hashes.tolist()


def test_terms_never_join_over_the_end_of_a_text():
    found = read_terms(["twenty", "five", "", "a b"])
    assert found.values[:2].tolist() == [20, 5] and found.bounds.tolist() == [0, 1, 2, 2, 4]


def test_other_numbers_and_functions_are_other_terms():
    texts = ["3.5", "35", r"\sin x", r"\cos x", "3", "4"]
    assert len({tuple(read_terms([text]).hashes.tolist()) for text in texts}) == len(texts)


def test_example_values_are_the_same_in_python_c_and_javascript():
    for text in ("f([1.0, 2.8, 3.0])", "{1, 2.8, 3}", "new Array(1,2.8,3)"):
        assert example_values(text) == {"1,2.8,3"}
    assert example_values("[1, 2, 3]") == example_values("'ab' [0, 0, 0]") == frozenset()


def test_what_code_says_in_words_is_read_in_several_languages():
    python = 'def has_close(a):\n    """True if two are close.\n    >>> has_close([1])\n    True\n    """\n'
    assert prose(python) == "has close. True if two are close"
    assert prose("// True if two are close\nfunction hasClose(a) {\n}") == "has close. True if two are close"
    assert prose("/* True if close */\nbool has_close(int *a, int n) {\n}") == "has close. True if close"
    assert prose("A baker sells rolls. How many?") == ""
    assert name_parts("parseHTTPReply") == "parse http reply"
    assert asks_for_code("Write a function") and not asks_for_code("A baker sells rolls")


def test_answers_meet_however_they_are_written():
    assert (
        answer_key("so it is 1,000. #### 1,000") == answer_key(r"hence \boxed{1000}") == answer_key("1000.0") == "1000"
    )
    assert answer_key(r"\boxed{\dfrac{3}{4}}") == answer_key(r"\frac34") and answer_key("x" * 300) is None


def test_formulas_agree_only_where_both_have_them():
    same = formulas(r"Find $x^2 + 3x - 4 = 0$")
    assert same_formulas(same, formulas("find x^2+3x-4 = 0")) > 0.9
    assert same_formulas(same, formulas(r"Find $x^3 - 5y + 7 = 9$")) < 0.4
    assert same_formulas(same, formulas("Bakers bake")) == 0.6
    texts = ["$20 and $30", "x^2", "2 = x", "is $a$", "$2+3$"]
    assert [has_formulas(text) for text in texts] == [False, True, True, True, True]


def test_overlapping_runs_cover_their_terms_once():
    pairs, terms = covered(np.array([7, 7, 7, 9]), np.array([0, 2, 20, 4]), np.array([5, 5, 5, 5]))
    assert pairs.tolist() == [7, 9] and terms.tolist() == [12, 5]


def test_the_nearest_are_exact_and_ties_go_to_the_smaller_number():
    made = np.random.default_rng(3).standard_normal((500, 32))
    items = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float16)
    items[400] = items[17]
    row, item, cosine = ItemMatrix(items).nearest(items[:50], 3, 0.2)
    full = items[:50].astype(np.float64) @ items.astype(np.float64).T
    for number in range(50):
        wanted = [place for place in np.lexsort((np.arange(500), -full[number])) if full[number, place] >= 0.2][:3]
        assert item[row == number].tolist() == wanted
    assert item[row == 17].tolist()[:2] == [17, 400]
    assert np.allclose(cosine, np.minimum(full[row, item], 1), atol=1e-12)


def test_checked_examples_are_known_whatever_the_function_is_called_and_however_they_are_written() -> None:
    python = "assert find_it([1, 2], 'ab') == (3, 4)\nassert (find_it([5], 'c')) == 6"
    script = 'console.assert(solve([1,2], "ab") === (3,4));\n  assert solve( [5],"c" ) == 6'
    assert checked_examples(python) == checked_examples(script) == {"[1,2],'ab'→3,4", "[5],'c'→6"}


def test_a_call_that_is_not_checked_is_no_example() -> None:
    assert checked_examples("print(find_it([1, 2]) == 3)\nfind_it(4)\nif find_it(5): == 6") == frozenset()


def test_examples_in_docstrings_are_read_in_the_forms_that_they_come_in() -> None:
    forms = (">>> odd([1, 2])\n    [1]", "odd([1,2]) ➞ [1]", "odd([1, 2]) == [1]", "odd([1, 2]) returns [1].",
             "assert candidate([1, 2]) == [1]", "odd([1, 2]) should return [1]", "  odd([1, 2]) => [1]")  # fmt: skip
    assert {checked_examples(f"Do it.\n    {form}\n") for form in forms} == {frozenset({"[1,2]→[1]"})}
    assert checked_examples("f(x) is an even function\n") == {"x→anevenfunction"}  # prose may be read as an example
    assert checked_examples(">>> odd(3)\n>>> odd(4)\nTrue") == {"4→true"}


def test_two_numbers_differ_more_surely_than_two_ways_to_write_an_answer() -> None:
    assert unlike("12", "13.5") == OTHER_NUMBER < unlike("x=9", "9") == unlike("\\frac12", "0.5") == -1.0
    assert answer_key("1234567") != answer_key("1234568")  # six digits are not enough


def test_the_share_that_is_written_alike_counts_runs_that_many_texts_have() -> None:
    one, other = (read_terms([text]).of(0) for text in ("what is the sum of the first ten odd primes",
                                                        "what is the sum of the squares of them"))  # fmt: skip
    assert covered_share(one, run_set(other)) == pytest.approx(0.6)
    assert covered_share(one, run_set(one)) == 1.0 and covered_share(one[:3], run_set(one[:3])) == 0.0


def test_what_is_around_a_question_leaves_out_the_nearest_and_fills_up_with_the_floor() -> None:
    question = np.array([0] * 12 + [2])
    cosine = np.array([0.99, 0.9, *[0.7] * 10, 0.8])
    assert around(question, cosine, 3, 1, 0.5) == pytest.approx([0.72, 0.5, 0.5])
    assert around(question, cosine, 3, 2, 0.5) == pytest.approx([0.7, 0.5, 0.5]) and NEXT == 10
