"""The page of findings shows data as text only, marks what matched in both texts, and says what it leaves out."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from tasks.findings import Example, Section, pieces, write_findings

HOSTILE = (
    "<script>alert(1)</script><img src=https://example.org/x onerror=alert(2)> \x1b[31m \u202eevil {{ 7 * 6 }} </mark>"
)


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.names: list[tuple[str, str | None]] = []
        self.text = ""
        self.marks: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.names += attributes
        if tag == "mark":
            self.marks.append("")

    def handle_endtag(self, tag):
        self.tags.append("/" + tag)

    def handle_data(self, data):
        self.text += data
        if self.tags and self.tags[-1] == "mark":
            self.marks[-1] += data


@pytest.fixture
def write(tmp_path):
    def write(title="a", facts=(), sections=()):
        path = tmp_path / "findings.html"
        write_findings(path, title, facts, sections)
        return path.read_text(encoding="utf-8")

    return write


def test_everything_from_data_is_text(write):
    example = Example(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, [(HOSTILE, HOSTILE)], [HOSTILE, "script", "evil"])
    section = Section(HOSTILE, HOSTILE, [HOSTILE], [[HOSTILE]], [example])
    text = write(HOSTILE, [(HOSTILE, HOSTILE)], [section, section])
    page = Page(text)
    assert not {"script", "img"} & set(page.tags) and "onerror" not in dict(page.names)
    assert all((value or "").startswith("#") for name, value in page.names if name in ("src", "href"))
    assert "[U+001B]" in page.text and "[U+202E]evil" in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e]", text)
    assert "{{ 7 * 6 }}" in page.text


def test_the_page_reaches_for_nothing(write):
    text = write(sections=[Section("s", "e", ["a"], [[1]], [Example("x", "l", "one", "r", "two")])])
    assert "default-src 'none'" in text and "http" not in text.replace("http-equiv", "")
    assert Page(text).tags.count("script") == 0


def test_matches_are_marked_in_both_texts_whatever_case_and_signs(write):
    example = Example("pair", "kept", "How many LEGS, have six spiders?", "dropped", "So how many legs  have six ants?",
                      matched=["how many legs have", "many legs have six"])  # fmt: skip
    assert Page(write(sections=[Section("s", "", examples=[example])])).marks == [
        "How many LEGS, have six",
        "how many legs  have six",
    ]


@pytest.mark.parametrize(
    ("text", "matched", "marked"),
    [
        ("seven is not even", ["even"], ["even"]),
        ("no word", ["wor"], []),
        ("a \\frac{1}{2} b", ["frac 1 2"], ["frac{1}{2"]),
        ("x != y", ["!="], ["!="]),
        ("x", ["", "  "], []),
        ("", ["a"], []),
        ("如果 一个 三角形", ["一个"], ["一个"]),
    ],
)
def test_whole_words_are_marked(text, matched, marked):
    found = pieces(text, matched)
    assert [piece.text for piece in found if piece.marked] == marked
    assert "".join(piece.text for piece in found) == text


def test_a_long_text_is_cut_around_the_match_and_says_so():
    text = "x " * 50_000 + "needle in hay " + "y " * 50_000
    found = pieces(text, ["needle in hay"])
    assert [piece.text for piece in found if piece.marked] == ["needle in hay"]
    assert sum(len(piece.text) + piece.left_out for piece in found) == len(text)
    assert sum(len(piece.text) for piece in found) < 2000 and len([piece for piece in found if piece.left_out]) == 2


def test_numbers_stand_in_columns_and_absent_values_are_said(write):
    text = write(
        facts=[("rows", "1,234")],
        sections=[Section("s", "", ["rule", "rows", "share"], [["a", 12345, 0.98765], ["b", None, 1.0]])],
    )
    assert '<td>a</td><td class="n">12,345</td><td class="n">0.9877</td>' in text
    assert '<td class="n">–</td>' in text and '<th scope="col" class="n">rows</th>' in text


def test_one_text_alone_and_no_finding(write):
    text = write(sections=[Section("s", "", ["rule"], []), Section("t", "", examples=[Example("x", "question", "")])])
    assert "Nothing was found." in text and text.count('class="side"') == 1 and "empty text" in text
    assert {'id="section-1"', 'href="#section-2"'} <= set(re.findall(r'(?:id|href)="[^"]+"', text))


def test_the_same_findings_give_the_same_bytes(write):
    sections = [Section("s", "e", ["a"], [[1.5]], [Example("x", "l", "one two", "r", "two", matched=["two"])])]
    assert write(sections=sections) == write(sections=sections)
