"""The viewer in a real browser: what a person does with it works, and what a model wrote does nothing.

After every test the browser must not have complained: no console message, no blocked resource, no dialog. Not
covered: other browsers than Chromium.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Locator, Page

from storage.workspace import Workspace
from tests.tasks.viewer.conftest import Tab, served
from tests.tasks.viewer.made import HOSTILE_ID, NUMBER, PROOF_ID, TEACHERS

DROPPED = NUMBER // 10
RIGHT = sum(number % 4 != 0 and number % 10 != 9 for number in range(NUMBER))


def follow(target: Locator) -> None:
    """Click it and wait for the page that it leads to."""
    with target.page.expect_navigation():
        target.click()


def all_ids(page: Page) -> list[str]:
    """The links of all rows from here to the last page."""
    found: list[str] = []
    while True:
        found += page.eval_on_selector_all("table.list tbody th a", "all => all.map(one => one.getAttribute('href'))")
        onward = page.locator("a[rel=next]").first
        if not onward.count():
            return found
        follow(onward)


def choose(page: Page, **filters: str) -> None:
    """Fill in the form of a list and send it off."""
    for name, value in filters.items():
        box = page.locator(f"#f-{name}")
        box.select_option(value) if box.evaluate("one => one.tagName") == "SELECT" else box.fill(value)
    follow(page.get_by_role("button", name="Filter"))


def test_the_overview_leads_to_every_list(url: str, open_tab: Callable[..., Tab]) -> None:
    page = open_tab(url).page
    assert page.locator("h1").inner_text() == "sums"
    for name in ("Questions", "Responses", "Verdicts", "Drops"):
        follow(page.get_by_role("navigation").get_by_role("link", name=name, exact=True))
        assert page.locator("h1").inner_text() == name
        assert page.locator("table.list tbody tr").count() > 0
    page.goto(url)
    follow(page.locator("#funnel").get_by_role("link", name="near duplicate"))
    assert page.locator("table.list tbody tr").count() == DROPPED
    assert "step=curate" in page.url and "rule=near_duplicate" in page.url


def test_all_pages_of_a_list_hold_every_row_once_and_in_order(url: str, open_tab: Callable[..., Tab]) -> None:
    page = open_tab(f"{url}/questions").page
    found = all_ids(page)
    assert len(found) == NUMBER
    assert found == sorted(set(found))
    last = page.url
    follow(page.locator("a[rel=prev]").first)
    follow(page.locator("a[rel=next]").first)
    assert page.url == last
    follow(page.get_by_role("link", name="First page").first)
    assert page.url == f"{url}/questions"
    assert len(all_ids(open_tab(f"{url}/responses").page)) == (NUMBER - DROPPED) * len(TEACHERS)
    assert len(all_ids(open_tab(f"{url}/verdicts").page)) == (NUMBER - DROPPED) * len(TEACHERS) * 2


def test_filters_show_what_they_say_and_their_address_is_short(url: str, open_tab: Callable[..., Tab]) -> None:
    page = open_tab(f"{url}/responses").page
    choose(page, teacher="good", status="accepted")
    assert page.url == f"{url}/responses?teacher=good&status=accepted"
    assert page.locator("#f-status").input_value() == "accepted"
    assert len(all_ids(page)) == RIGHT
    follow(page.get_by_role("link", name="Clear"))
    choose(page, text="SAYS \\BOXED{84}")
    assert page.locator("mark").all_inner_texts() == ["says \\boxed{84}"] * 2
    page.goto(f"{url}/questions")
    choose(page, fate="dropped", category="code")
    codes = sum(number % 3 == 1 and number % 10 == 9 for number in range(NUMBER))
    assert page.locator("table.list tbody tr").count() == codes
    choose(page, fate="", category="", difficulty="unsolved", teacher="poor", status="wrong_answer")
    assert len(all_ids(page)) == NUMBER - DROPPED - RIGHT
    page.goto(f"{url}/verdicts?verifier=math&status=accepted")
    assert len(all_ids(page)) == RIGHT


def test_a_question_shows_everything_about_it(url: str, open_tab: Callable[..., Tab]) -> None:
    page = open_tab(f"{url}/question/{PROOF_ID}").page
    text = page.locator("main").inner_text()
    for said in ("1 of its responses selected", "difficulty", "medium", "101 tokens", "selected by best"):
        assert said in text
    assert page.locator("article.response").count() == len(TEACHERS)
    assert page.locator("math mfrac").count() > 0
    assert page.locator("pre.code .k").first.inner_text() == "def"
    thinking = page.locator("details.thinking").first
    assert not thinking.locator(".prose").is_visible()
    thinking.locator("summary").click()
    assert "Let me think about 1" in thinking.locator(".prose").inner_text()
    follow(page.get_by_role("link", name="Texts as written"))
    assert "\\begin{aligned}" in page.locator("article.response").first.inner_text()
    assert page.locator("math").count() == 0


def test_formulas_take_their_room(url: str, open_tab: Callable[..., Tab]) -> None:
    page = open_tab(f"{url}/question/{PROOF_ID}").page
    box = page.locator("article.response .formula").first.bounding_box()
    assert box and box["height"] > 40 and box["width"] > 100  # two lines of fractions, drawn as such


@pytest.mark.parametrize("path", [f"/question/{HOSTILE_ID}", f"/question/{HOSTILE_ID}?as=written",
                                  "/questions?text=owned", "/responses?text=owned", "/verdicts?text=owned",
                                  "/drops?text=<script>document.title='owned'</script>"])  # fmt: skip
def test_what_a_model_wrote_is_text_and_does_nothing(path: str, url: str, open_tab: Callable[..., Tab]) -> None:
    tab = open_tab(f"{url}{path}")
    page = tab.page
    for summary in page.locator("summary").all():
        summary.click()
    assert page.locator("script, main img, iframe, object, style, [style], [onerror]").count() == 0
    hrefs = page.eval_on_selector_all("[href]", "all => all.map(one => one.getAttribute('href'))")
    assert all(target.startswith(("/", "#", "?")) for target in hrefs)
    assert not page.title().startswith("owned")
    assert {urlsplit(one).netloc for one in tab.fetched} == {urlsplit(url).netloc}
    text = page.locator("main").inner_text()
    assert "\x1b" not in text and "\u202e" not in text
    if "drops" not in path:
        assert "<script>" in text
        assert ("[U+001B]" if "verdicts" not in path else "\\u001b") in text  # evidence is JSON


def test_a_script_in_the_page_would_be_blocked(url: str, open_tab: Callable[..., Tab]) -> None:
    """The policy holds by itself, should an escape fail one day."""
    tab = open_tab(url)
    tab.page.evaluate("""() => {
        const script = document.createElement('script');
        script.textContent = "document.title = 'owned'";
        document.body.append(script);
        document.body.insertAdjacentHTML('beforeend', '<p style="color: red" onclick="1">x</p><img src="http://203.0.113.9/">');
    }""")
    assert tab.page.title() != "owned"
    blocked = [one for one in tab.complaints if "Content Security Policy" in one]
    assert len(blocked) >= 3
    tab.complaints.clear()


def test_the_keyboard_reaches_everything_in_reading_order(url: str, open_tab: Callable[..., Tab]) -> None:
    page = open_tab(f"{url}/questions").page

    def next_focus() -> str:
        page.keyboard.press("Tab")
        return page.evaluate("() => document.activeElement.textContent.trim() || document.activeElement.id")

    assert next_focus() == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "main"
    page.goto(f"{url}/questions")
    expected = ["Skip to the content", "sums", "Questions", "Responses", "Verdicts", "Drops", "find", "Go"]
    assert [next_focus() for _ in expected] == expected
    assert page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"
    fields = ["category", "source", "split", "difficulty", "teacher", "status", "fate", "rule", "text"]
    for name in fields:
        next_focus()
        assert page.evaluate("() => document.activeElement.name") == name
    page.keyboard.type("42 + 42")
    page.keyboard.press("Enter")
    page.wait_for_url("**text=42*")
    assert page.locator("table.list tbody tr").count() == 1


def test_an_id_leads_to_its_question_and_response(url: str, open_tab: Callable[..., Tab]) -> None:
    page = open_tab(f"{url}/questions").page
    page.locator("#find").fill(PROOF_ID[:12])
    page.locator("#find").press("Enter")
    page.wait_for_url(f"**/question/{PROOF_ID}")
    response = page.locator("article.response").first.get_attribute("id") or ""
    page.locator("#find").fill(response.removeprefix("r-")[:14])
    page.locator("#find").press("Enter")
    page.wait_for_url(f"**/question/{PROOF_ID}#{response}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(scheme: str, url: str, open_tab: Callable[..., Tab]) -> None:
    """Contrast of 4.5 to 1 at least (WCAG 2.2, 1.4.3), code's colours included."""
    page = open_tab(f"{url}/question/{PROOF_ID}", color_scheme=scheme).page
    faint = page.evaluate(CONTRAST)
    assert faint == []


CONTRAST = """() => {
    const parse = text => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = one => {
        for (; one; one = one.parentElement) {
            const found = parse(getComputedStyle(one).backgroundColor);
            if (found.length < 4 || found[3] > 0) return found;
        }
        return [255, 255, 255];
    };
    const faint = new Set();
    for (const one of document.querySelectorAll('main *')) {
        const own = [...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
        if (!own || !one.checkVisibility()) continue;
        const [a, b] = [light(parse(getComputedStyle(one).color)), light(ground(one))].sort((x, y) => y - x);
        if ((a + 0.05) / (b + 0.05) < 4.5) faint.add(one.className + ' ' + one.textContent.slice(0, 30));
    }
    return [...faint];
}"""


def test_with_a_token_nobody_else_sees_anything(made: Workspace, tmp_path: Path, open_tab: Callable[..., Tab]) -> None:
    token = "0123456789abcdefXYZ"
    with served(made, tmp_path, token) as url:
        tab = open_tab(f"{url}/questions?category=code")
        page = tab.page
        assert page.locator("h1").inner_text() == "Token"
        page.get_by_label("Token").fill("wrong wrong wrong")
        follow(page.get_by_role("button", name="Open"))
        assert "That was not it." in page.locator("main").inner_text()
        page.goto(f"{url}/questions?category=code")
        page.get_by_label("Token").fill(token)
        follow(page.get_by_role("button", name="Open"))
        assert page.url == f"{url}/questions?category=code"
        assert page.locator("h1").inner_text() == "Questions"
        other = open_tab(f"{url}/drops?rule=near_duplicate&token={token}").page
        assert other.url == f"{url}/drops?rule=near_duplicate"
        assert other.evaluate("() => document.cookie") == ""
        tab.complaints = [one for one in tab.complaints if "401" not in one]  # the browser's own note of the refusals
