"""Proves how a licence is recognised as it is written, which of several is the most restrictive, and what they ask for
together. Not covered: whether the order is good law.
"""

from __future__ import annotations

import pytest

from tasks.export_licenses import LADDER, UnknownLicense, check_licenses, known_license, licensing, terms_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MIT", "mit"),
        ("The MIT License", "mit"),
        ("Apache 2.0", "apache-2.0"),
        ("apache-2.0", "apache-2.0"),
        ("Apache License, Version 2.0", "apache-2.0"),
        ("CC BY-NC-SA 4.0", "cc-by-nc-sa-4.0"),
        ("CC_BY_4.0", "cc-by-4.0"),
        ("https://creativecommons.org/licenses/by-nc-nd/4.0/", "cc-by-nc-nd-4.0"),
        ("GPL-3.0-or-later", "gpl-3.0"),
        ("GPLv3", "gpl-3.0"),
        ("GPL-2.0+", "gpl-2.0"),
        ("CC0", "cc0-1.0"),
        ("llama3.1", "llama3.1"),
        ("research only (a-m-team/AM-DeepSeek-Distilled-40M)", "research-only"),
        ("CC-BY-NC", None),  # which version?
        ("MITX", None),
        ("other", None),
        ("unknown", None),
        ("", None),
        (None, None),
    ],
)
def test_a_licence_is_known_as_it_is_written_or_not_at_all(text, expected):
    assert known_license(text) == expected


def test_every_name_in_the_ladder_is_known_by_itself_and_stands_there_once():
    names = [name for _, names in LADDER for name in names]
    assert [known_license(name) for name in names] == names and len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("freer", "stricter"),
    [
        ("CC0-1.0", "MIT"),
        ("MIT", "Apache-2.0"),
        ("CC-BY-4.0", "CC-BY-SA-4.0"),
        ("CC-BY-SA-4.0", "gemma"),
        ("CC-BY-SA-4.0", "CC-BY-NC-4.0"),
        ("CC-BY-NC-4.0", "CC-BY-NC-SA-4.0"),
        ("CC-BY-NC-SA-4.0", "research only"),
        ("CC-BY-NC-SA-4.0", "CC-BY-NC-ND-4.0"),
    ],
)
def test_the_stricter_of_two_counts_in_any_order(freer, stricter):
    for pair in ((freer, stricter), (stricter, freer)):
        found = licensing([("a", pair[0]), ("b", pair[1])])
        assert found.strictest == known_license(stricter) and found.several


def test_conditions_of_all_count_together():
    found = licensing([("a", "CC-BY-SA-4.0"), ("b", "CC-BY-NC-4.0")], [("t", "llama3.1"), ("u", None)])
    assert found.conditions == ("attribution", "share-alike", "limits on use", "non-commercial")
    assert found.hub_id == "other" and not found.unknown
    assert any("Share-alike" in sentence for sentence in found.sentences())


def test_what_is_unknown_ranks_above_all_and_is_named():
    found = licensing([("a", None), ("b", "CC-BY-NC-ND-4.0")], [("t", "terms of service")])
    assert found.strictest == "unknown" == found.hub_id
    assert found.unknown == ("source a: none stated", "teacher t: 'terms of service'")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MIT", ("mit",)),
        ("MIT OR Apache-2.0", ("mit",)),
        ("cc-by-4.0 AND mit", ("cc-by-4.0", "mit")),
        ("(MIT AND CC-BY-SA-4.0) OR CC-BY-NC-SA-4.0", ("cc-by-sa-4.0", "mit")),
        ("CC-BY-NC-4.0 OR CC-BY-SA-4.0", ("cc-by-sa-4.0",)),  # as many conditions: the lower rank
        ("GPL-2.0-or-later WITH Classpath-exception-2.0", ("gpl-2.0",)),
        ("LicenseRef-Llama-3.1", ("llama3.1",)),
        ("LicenseRef-ours", ()),
        ("MIT OR LicenseRef-ours", ("mit",)),
        ("MIT AND LicenseRef-ours", ()),
        ("MIT OR", ()),
        ("MIT/Apache-2.0", ()),
        ("()", ()),  # here the library fails with an IndexError
        ("( AND - -", ()),  # and here with an AssertionError
        ("(" * 5000, ()),
        (None, ()),
    ],
)
def test_an_expression_leaves_the_freer_choice_and_asks_for_all_that_is_joined(text, expected):
    assert terms_of(text) == expected


def test_a_choice_is_told_and_so_is_a_teacher_that_states_nothing():
    found = licensing([("a", "MIT OR GPL-3.0"), ("b", "CC-BY-4.0 AND MIT")], [("t", None), ("u", "MIT")])
    assert (found.strictest, found.unknown, found.silent) == ("cc-by-4.0", (), ("t",))
    text = " ".join(found.sentences())
    assert "the freer one is counted: MIT OR GPL-3.0 → mit." in text
    assert "Nobody states the licence or terms of what these teachers write: t." in text


def test_a_teacher_that_states_nothing_is_let_through_one_under_unknown_terms_is_not():
    assert check_licenses([("a", "MIT")], {"t": None}, allow=False).strictest == "mit"
    with pytest.raises(UnknownLicense, match="teacher t: 'ask us'"):
        check_licenses([("a", "MIT")], {"t": "ask us"}, allow=False)
