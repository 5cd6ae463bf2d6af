"""Each test shows that one thing that a model may write comes out readable, and can do nothing."""

from __future__ import annotations

import pytest
from pygments.styles import get_style_by_name

from tasks.viewer.excerpt import excerpt
from tasks.viewer.mathml import formula
from tasks.viewer.prose import BUDGET, CUT, LONGEST, Prose, written


def rendered(text: str) -> str:
    return str(Prose().text(text))


@pytest.mark.parametrize("text", [
    "<script>alert(1)</script>", "a <b onclick=x>b</b>", "<!-- x -->", "<?php x ?>", "<![CDATA[x]]>",
    "&lt;script&gt;", "| <script> |\n|---|\n| <b> |", "```html\n<script>x</script>\n```",
    "```\"><script>\nx\n```", "    <script>", "- <svg/onload=x>", "# <script>", "$<script>$", "\\(<b>\\)",
    "\\[ \\text{&lt;script&gt;<script>} \\]", "$\\text{&#60;script&#62;}$", "$$\\mbox{<img src=x>}$$",
    "\\begin{align}<script>\\end{align}", "$\\href{javascript:x}{y}$", "$\\style{color:red}{x}$",
    "$\\class{evil}{x}$", "$\\color{white}{x}$", "$\\phantom{x}$", "$\\frac{<script>$",
])  # fmt: skip
def test_no_markup_of_a_model_gets_through(text: str) -> None:
    html = rendered(text)
    for evil in ("<script", "<b ", "<b>", "<img", "<svg", "<!--", "<?php", "<![CDATA", " href=", " style=", "evil\"",
                 "mathcolor", "mphantom", "onclick=x>b<"):  # fmt: skip
        assert evil not in html


@pytest.mark.parametrize("text", ["[x](javascript:alert(1))", "![x](http://203.0.113.9/x)", "<http://203.0.113.9>",
                                  "[x][1]\n\n[1]: http://203.0.113.9", "http://203.0.113.9"])  # fmt: skip
def test_links_and_pictures_stand_as_written(text: str) -> None:
    html = rendered(text)
    assert "<a" not in html and "<img" not in html
    assert "javascript:alert(1)" in html or "203.0.113.9" in html


@pytest.mark.parametrize("char", ["\x1b", "\x00", "\x9b", "\u202e", "\u2066", "\u200b", "\ufeff", "\U000e0041"])
def test_controls_and_invisible_marks_are_written_out(char: str) -> None:
    name = f"[U+{ord(char):04X}]"
    for text in (f"a{char}b", f"```python\nx = '{char}'\n```", f"$\\text{{{char}}}$"):
        assert char not in rendered(text)
        assert name in rendered(text)
    assert name in written(f"a{char}b") and char not in written(f"a{char}b")
    assert char not in (formula(f"\\text{{&#x{ord(char):x};}}", block=False) or "")


@pytest.mark.parametrize("text", [
    "$\\frac{1}{2}$", "$$\\frac{1}{2}$$", "\\(\\frac{1}{2}\\)", "\\[\\frac{1}{2}\\]",
    "So\n\\[\n\\frac{1}{2}\n- x\n\\]\nand",
    "So\n$$\n\\frac{1}{2}\n+ x\n$$", "\\begin{align*} \\frac{1}{2} &= x \\\\ y &= z \\end{align*}",
    "1. one\n   \\[\n   \\frac{1}{2}\n   \\]\n2. two", "> \\[\\frac{1}{2}\\]",
    "in the middle \\[\\frac{1}{2}\\] of a line",
])  # fmt: skip
def test_formulas_are_drawn_however_they_are_marked(text: str) -> None:
    html = rendered(text)
    assert html.count("<math") == 1
    assert "<mfrac>" in html


def test_what_follows_a_formula_on_its_line_stays() -> None:
    assert "where z" in rendered("\\[y\\] where z")
    assert "where z" in rendered("$$y$$ where z")


def test_money_is_no_formula() -> None:
    assert "<math" not in rendered("It costs $5 and then $6, or $7.")


def test_a_formula_that_cant_be_read_stands_as_it_is() -> None:
    assert '<code class="tex">\\frac{</code>' in rendered("$\\frac{$")
    assert formula("{" * 3000, block=False) is None
    assert formula("{" * 1900, block=False) is None


def test_code_is_highlighted_and_a_bare_program_keeps_its_lines() -> None:
    assert '<span class="k">def</span>' in rendered("```python\ndef f(): pass\n```")
    assert "style=" not in rendered("```python\ndef f(): pass\n```")
    assert "def f():\n    return 1" in rendered("def f():\n    return 1\n")


def test_long_texts_are_shown_as_written_and_what_is_cut_is_counted() -> None:
    assert "<strong>" in rendered("**x**")
    assert "**x**" in rendered("**x**" + "y" * LONGEST)
    prose = Prose(left=10)
    assert "<strong>" in prose.text("**x**")
    assert "**xyz**" in prose.text("**xyz**")
    assert f"{7:,} characters left out" in written("z" * (CUT + 7))
    assert "left out" not in written("z" * CUT)
    assert BUDGET >= LONGEST


@pytest.mark.parametrize("text", ["*a **a ", "\\(", "> ", "`a `", "$", "|a", "- ", "\\begin{align}\n", "a$b ",
                                  "\\[\n", "$$a\n", "_", "[a](", "![", "x\n\\[x\n", "```a\n", "{",
                                  "\\frac{", "&#", "<a "])  # fmt: skip
def test_no_text_is_too_deep(text: str) -> None:
    assert rendered((text * LONGEST)[:LONGEST])


@pytest.mark.parametrize(("style", "grounds"), [("xcode", ("fcfcfa", "f2f2ee")), ("github-dark", ("16191c", "1f2327"))])
def test_colours_of_code_stand_out(style: str, grounds: tuple[str, str]) -> None:
    """4.5 to 1 at least (WCAG 2.2, 1.4.3) for all that has a look; a blank has none."""
    for token, look in get_style_by_name(style):
        if look["color"] and "Whitespace" not in str(token):
            assert min(_contrast(look["color"], ground) for ground in grounds) >= 4.5, token


def _contrast(one: str, other: str) -> float:
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_excerpts() -> None:
    text = "start " + "a\n b " * 200 + "NEEDLE" + " c" * 300 + " end"
    assert excerpt("short\n\ntext").before == "short text"
    assert excerpt(text).before.startswith("start a b") and excerpt(text).before.endswith(" …")
    assert excerpt(text, end=True).before.startswith("… ") and excerpt(text, end=True).before.endswith(" end")
    found = excerpt(text, "needle")
    assert found.hit == "NEEDLE" and found.before.startswith("… ") and found.after.endswith(" …")
