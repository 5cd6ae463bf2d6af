"""The report in a real Chromium: light, dark, narrow, on paper, by keyboard; it fetches and runs nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from storage.editions import Edition, create_edition
from tests.tasks.made_report import build, page_of, train
from tests.tasks.viewer.conftest import Tab

CONTRAST = """
(selector) => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(Number).map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  return Math.min(...[...document.querySelectorAll(selector)].map((one) => {
    const style = getComputedStyle(one), ink = light(style.color);
    return (Math.max(paper, ink) + 0.05) / (Math.min(paper, ink) + 0.05) * Number(style.opacity);
  }));
}
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = build(tmp_path_factory.mktemp("page") / "ws")
    train(made)
    for number in (1, 2, 3):
        counts = {"examples": 9 + number, "questions": 5, "pass_rate": 0.25}
        diff = {"against": number - 1 or None, "changes": {"added": {"new_question": 1}, "gone": {"retired": 1}}}
        create_edition(made, Edition(number=number, created="2026-11-21T02:00:00+00:00", name="r", recipe="h",
                                     run_id="run", versions={}, steps={}, slices=(), files=(), counts=counts,
                                     diff=diff))  # fmt: skip
    page_of(made, "student")
    return (made.root / "report.html").as_uri()


def test_it_fetches_nothing_and_every_chart_is_drawn_and_named(address: str, open_tab: Callable[..., Tab]) -> None:
    tab = open_tab(address)
    assert tab.fetched == [address]
    figures = tab.page.locator("figure")
    assert figures.count() >= 12
    for figure in figures.all():
        box = figure.locator("svg").bounding_box()
        assert box and box["width"] > 400 and box["height"] > 40
        assert figure.locator("[role=img]").get_attribute("aria-label")
        assert figure.locator("figcaption").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_the_paper(address: str, open_tab: Callable[..., Tab], scheme: str) -> None:
    tab = open_tab(address, color_scheme=scheme)
    assert tab.page.evaluate(CONTRAST, "h1, h2, h3, h4, p, td, th, figcaption, .soft, a, summary, svg text") >= 4.5


def test_charts_take_the_pages_colours_in_the_dark(address: str, open_tab: Callable[..., Tab]) -> None:
    colour = "() => getComputedStyle(document.querySelector('figure svg text')).color"
    light, dark = (open_tab(address, color_scheme=scheme).page.evaluate(colour) for scheme in ("light", "dark"))
    assert light != dark


def test_on_a_narrow_screen_only_tables_and_charts_scroll_sideways(address: str, open_tab: Callable[..., Tab]) -> None:
    tab = open_tab(address)
    tab.page.set_viewport_size({"width": 360, "height": 800})
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 360


def test_by_keyboard_alone(address: str, open_tab: Callable[..., Tab]) -> None:
    page = open_tab(address).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.url.endswith("#main")
    summary = page.locator("summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert summary.locator("xpath=..").get_attribute("open") is not None
    reachable = page.locator(".scroll[tabindex='0']").count()
    assert reachable == page.locator(".scroll").count() > 10


def test_on_paper_everything_is_unfolded_and_light(address: str, open_tab: Callable[..., Tab], tmp_path: Path) -> None:
    page = open_tab(address, color_scheme="dark").page
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    folded = page.locator("details:not([open]) > *:not(summary)")
    assert folded.count() > 5 and all(one.bounding_box()["height"] > 0 for one in folded.all())
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
