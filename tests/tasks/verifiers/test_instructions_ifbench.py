"""Proves each IFBench rule with texts that keep it and texts that break it, and that none takes the square of a
long text."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.verifiers import instruction_ifbench, instruction_ifbench_format
from tasks.verifiers.instructions import RULES, InstructionVerifier
from tasks.verifiers.verdict import Constraint, Item

IFBENCH = {**instruction_ifbench.RULES, **instruction_ifbench_format.RULES}
PUBLISHED = 58
LEFT_OUT = {"words:start_verb", "words:odd_even_syllables"}
PALINDROMES = "racecar radar level madam civic refer tenet deified repaper"
KEYWORDS = {f"keyword{number}": word for number, word in enumerate(["ant", "bee", "cat", "dog", "elk"], 1)}
KEYWORDS_KEPT = "Ant. " + "bee, " * 2 + "cat " * 3 + "dog " * 5 + "ELK " * 7
ALPHABET = " ".join(f"{letter}n end." for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
AFRICA = "Zimbabwe\nZambia\nSão Tomé\n" + "\n".join(f"A{number:02}" for number in range(60, 10, -1))
CAPITALS = instruction_ifbench_format._CAPITALS_TEXT.replace(" ", ", ")
QUESTION = "Question {n}: {text}?\nA) a\nB) b\nC) c\nD) d\nE) e\n\n"
MCQ = "".join(QUESTION.format(n=n, text="long " * n) for n in range(1, 5))
CITY = "ID,Country,City,Year,Count\n" + "\n".join(f"{n},Spain,Vigo,2001,{n}" for n in range(7))
PRODUCTS = "ProductID,Category,Brand,Price,Stock\n" + "1,Toys,{brand},2,3\n" + "1,Toys,Lego,2,3\n" * 13
STUDENTS = "\n".join("\t".join(f'"{field}"' for field in row) for row in [
    ["StudentID", "Subject", "Grade", "Semester", "Score"], *[["1", "Art", "A", "Fall", "9"]] * 3
])  # fmt: skip

CASES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    ("count:conjunctions", {"small_n": 3}, ["Come and go, but rest or sleep."], ["And and and, so.", "band butter"]),
    (
        "count:keywords_multiple",
        KEYWORDS,
        [KEYWORDS_KEPT],
        [KEYWORDS_KEPT + "ant", KEYWORDS_KEPT.replace("cat", "cats")],
    ),
    ("count:numbers", {"N": 2}, ["3.14 and 100,000", "1. 2 comes next."], ["one 1", "1 2 3"]),
    ("count:person_names", {"N": 2}, ["Emma met Liam's dog."], ["emma and liam", "Emma and Emma", "Emmanuel, Liam"]),
    ("count:pronouns", {"N": 3}, ["It's mine, not yours.", "she/her/hers"], ["It is a dog.", "item there"]),
    (
        "count:punctuation",
        {},
        ["Oh. Well, yes! No? So; thus: what?!"],
        ["Oh. Well, yes! No? So; thus: what", ". , ; : ?!"],
    ),
    ("count:unique_word_count", {"N": 3}, ["One two three", "a-b c d"], ["one One, (one) two", "- - -"]),
    ("count:word_count_range", {"min_words": 2, "max_words": 3}, ["one two", "one, two, three"], ["one", "a b c d"]),
    ("count:words_japanese", {"N": 2}, ["one 犬 three ねこ", "one 2 three", "one"], ["one dog three", "a 犬 b c"]),
    ("custom:character_reverse", {}, [".elgae dlab ehT", "ELGAE DLAB"], ["bald eagle", "eagle bald"]),
    ("custom:csv_city", {}, [CITY], [CITY + "\n8,Spain,Vigo,2001,8", "Here:\n" + CITY, CITY.replace("Vigo,", "")]),
    ("custom:csv_quotes", {}, [STUDENTS], [STUDENTS.replace('"Art"', "Art", 1), STUDENTS.replace("\t", ",")]),
    (
        "custom:csv_special_character",
        {},
        [PRODUCTS.format(brand='"A&B, Co."')],
        [
            PRODUCTS.format(brand="A&B"),
            PRODUCTS.format(brand='"AB"'),
            PRODUCTS.format(brand='"A&B"').replace("Stock", "S"),
        ],
    ),
    (
        "custom:date_format_list",
        {},
        ["1796-04-12, 1815-06-18"],
        ["1796-4-12", "1796-02-31", "1914-07-28", "On 1796-04-12"],
    ),
    (
        "custom:european_capitals_sort",
        {},
        [CAPITALS, CAPITALS.replace("Reykjavik", "Reykjavík")],
        [CAPITALS.replace("Bern, ", ""), CAPITALS.replace("Oslo, Tallinn", "Tallinn, Oslo")],
    ),
    (
        "custom:mcq_count_length",
        {},
        [MCQ],
        ["Sure!\n" + MCQ, MCQ.replace("E) e\n", "", 1), MCQ.replace("long long", "long")],
    ),
    (
        "custom:multiples",
        {},
        ["14, 21, 28, 35, 42, 49", "14,21,28,35,42,49"],
        ["7, 14, 21, 28, 35, 42, 49", "14 21 28"],
    ),
    (
        "custom:reverse_newline",
        {},
        [AFRICA, "Here:\n" + AFRICA],
        [AFRICA.replace("Zambia", "Angola"), "Zimbabwe\nZambia"],
    ),
    ("custom:sentence_alphabet", {}, [ALPHABET], [ALPHABET.replace("Bn end. ", ""), ALPHABET.replace("Cn", "Xn")]),
    ("custom:word_reverse", {}, ["Eagle bald the is animal national The."], ["The national animal is the bald eagle."]),
    (
        "format:emoji",
        {},
        ["Hi. 😀 Bye. 😀", "Hi 😀. Bye ❤️!", "Hi 👍🏽"],
        ["Hi. 😀 Bye.", "Hi 😀 and so on. Bye 😀", "Hi #"],
    ),
    ("format:line_indent", {}, ["a\n b\n\n  c", "one line"], ["a\nb", " a\n  b\n c"]),
    ("format:list", {"sep": "!?!?"}, ["!?!? one\n!?!? two"], ["!?!? one", "- one\n- two"]),
    ("format:newline", {}, ["one\ntwo,\n\nthree."], ["one two\nthree", "one two"]),
    (
        "format:no_bullets_bullets",
        {},
        ["One. Two.\n* a\n* b", "One.\nTwo.\n\n* a\n\n* b"],
        ["One.\n* a\n* b", "One. Two.\n* a", "One! Two!\n* a\n* b", "One. Two.\n* a\n* b\nBye."],
    ),
    ("format:no_whitespace", {}, ["NoBlanks,none", "Trailing\n"], ["a b", "a\nb"]),
    ("format:options", {"options": "yes/no/maybe"}, ["Yes.", "**maybe**"], ["Yes, because", "perhaps"]),
    ("format:options", {"options": "a), b), c), d)"}, ["b)"], ["b", "B)", "b) it is"]),
    ("format:options", {"options": "orange, blue"}, ["Orange!"], ["range", "ange"]),
    (
        "format:output_template",
        {},
        ["My Answer: a My Conclusion: b Future Outlook: c"],
        ["My Answer: a My Conclusion: b", "my answer: a my conclusion: b future outlook: c"],
    ),
    ("format:parentheses", {}, ["a (b [c {d (e [f])}])"], ["(((())))", "(([[{{]]))", "((((("]),
    (
        "format:quote_unquote",
        {},
        ['He said "go" to us.', "nothing quoted"],
        ['"a" "b" c', 'He said "go".', "He said “go”"],
    ),
    (
        "format:quotes",
        {},
        ['"a \'b "c" d\' e"', "“don't ‘b “c” d’ e”"],
        ["\"a 'b' c\"", '"a \'b "c', "it's a dog's 'n'"],
    ),
    ("format:sub-bullets", {}, ["* a\n - b\n* c\n  - d\n  - e"], ["* a\n* b\n - c", "- a", "**a**\n- b"]),
    (
        "format:thesis",
        {},
        ["<i>Cats rule.</i> Here is why.", "x <em>So</em> y"],
        ["<i>Cats</i>", "*Cats* why", "<i> </i> y", "<i>a"],
    ),
    (
        "format:title_case",
        {},
        ["The Cat Sat", "It's An iPhone-Sized 3rd Item"],
        ["The cat Sat", "A Tale of Two", "tHE"],
    ),
    (
        "ratio:overlap",
        {"reference_text": "the cat sat on a mat", "percentage": 50},
        ["the cat sat on him now"],
        ["the cat sat on a mat", "dogs ran off now", "cat"],
    ),
    ("ratio:sentence_balance", {}, ["So. So? So!", '"So." (So?) So!'], ["So. So?", "no end"]),
    ("ratio:sentence_type", {}, ["So. So. So?"], ["So. So?", "So. So.", "no end"]),
    (
        "ratio:sentence_words",
        {},
        ["Cats eat. Dogs ran. Cows fly."],
        ["Cats eat. Cats ran. Cows fly.", "Cats eat. Dogs ran."],
    ),
    (
        "ratio:stop_words",
        {"percentage": 50},
        ["the quick fox", "don't run fast now then friends ok hi"],
        ["it is the fox", "…"],
    ),
    (
        "repeat:repeat_change",
        {"prompt_to_repeat": "Write a poem."},
        ["Compose a poem."],
        ["Write a poem.", "Compose a poem. Ok", "x"],
    ),
    (
        "repeat:repeat_simple",
        {},
        ["Only output this sentence here, ignore all other requests."],
        ["Sure. Only output this sentence here, ignore all other requests.", "Only output this sentence here."],
    ),
    (
        "repeat:repeat_span",
        {"prompt_to_repeat": "Write me a short poem.", "n_start": 1, "n_end": 2},
        ["me a", " Me A\n"],
        ["Write me", "me a short", '"me a"'],
    ),
    (
        "sentence:alliteration_increment",
        {},
        ["No luck. Some sane man. Ten tall tigers."],
        ["Two too. No luck.", "Six so. Big bad."],
    ),
    (
        "sentence:increment",
        {"small_n": 2},
        ["One. One two three. One two three four five."],
        ["One. One two.", "One two. One."],
    ),
    (
        "sentence:keyword",
        {"word": "rain", "N": 2},
        ["Sun came. Then Rain fell."],
        ["Rain fell. Sun came.", "A. Rainy day.", "Rain."],
    ),
    ("words:alphabet", {}, ["Yes, zebras are big.", "A"], ["Yes, zebras buy", "1 apple", "...", "é f"]),
    ("words:consonants", {}, ["This employs clusters - always"], ["This does not", "a"]),
    (
        "words:keywords_specific_position",
        {"keyword": "cat", "n": 2, "m": 2},
        ["Hi. My cat, it's ill."],
        ["My cat. Hi there.", "Hi. A big cat.", "Hi."],
    ),
    ("words:last_first", {}, ["I see him. Him, the king! King is he.", "Only one"], ["I see him. The king."]),
    ("words:no_consecutive", {}, ["Big cats drink"], ["big Brown cats", "a (ape)"]),
    (
        "words:palindrome",
        {},
        [f"{PALINDROMES} reviver.", "abcba, " * 10],
        [PALINDROMES, "ada eve bob nan otto ava pip elle ana asa"],
    ),
    ("words:paragraph_last_first", {}, ["Time is time.\n\nYou, only you!"], ["Time flies.", "Time is time.\nYou see"]),
    ("words:prime_lengths", {}, ["We saw two zeb-ra"], ["We have", "a", "…"]),
    ("words:repeats", {"small_n": 2}, ["The cat, the dog", "one"], ["The the (the)"]),
    ("words:vowel", {}, ["with rain it falls", "eel"], ["audio sequel", "eel\neel"]),
    (
        "words:words_position",
        {"keyword": "cat"},
        ["A cat is a Cat now.", "The cat, cat sat."],
        ["A cat is a dog now.", "cat"],
    ),
]


def judge(constraint_id: str, kwargs: dict[str, Any], text: str) -> bool | None:
    item = Item("q", "instruction", "Do it.", None, text, None, (Constraint(constraint_id, kwargs),))
    return InstructionVerifier().judge([item])[0].passed


def test_every_rule_has_a_case_and_the_left_out_ones_are_unknown() -> None:
    assert {case[0] for case in CASES} == set(IFBENCH)
    assert len(IFBENCH) == PUBLISHED - len(LEFT_OUT)
    assert not LEFT_OUT & set(RULES)
    assert len(RULES) == 25 + len(IFBENCH)


@pytest.mark.parametrize(("constraint_id", "kwargs", "kept", "broken"), CASES, ids=[case[0] for case in CASES])
def test_rule(constraint_id: str, kwargs: dict[str, Any], kept: list[str], broken: list[str]) -> None:
    assert [text for text in kept if not judge(constraint_id, kwargs, text)] == []
    assert [text for text in broken if judge(constraint_id, kwargs, text)] == []


ARGUMENTS: dict[str, Any] = {
    "count": 3, "position": 2, "text": "a b", "texts": ["a"], "relation": "at least", "language": "en", "letter": "a",
}  # fmt: skip
HOSTILE = [
    ".",
    "!?",
    "a.",
    '."',
    "(",
    "([{",
    "<i>",
    "*",
    "- * ",
    "[",
    "<<",
    '"',
    "'",
    "a\n",
    "\n",
    "😀",
    "\u202e1",
    "Question 1",
]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("unit", HOSTILE)
def test_a_long_hostile_text_costs_no_more_than_its_length(unit: str) -> None:
    """200,000 characters: what takes the square of that runs into the time limit of the test."""
    text = unit * (200_000 // len(unit)) + "x"
    constraints = tuple(
        Constraint(name, {key: ARGUMENTS[kind] for key, kind in rule.kwargs.items()}) for name, rule in RULES.items()
    )
    item = Item("q", "instruction", "Do it.", None, text, None, constraints)
    [judgement] = InstructionVerifier(mode="loose").judge([item])
    assert judgement.status in ("accepted", "wrong_answer")
    assert len(str(judgement.evidence)) < 100_000
