"""Texts that models wrote, as HTML that can do nothing: Markdown, highlighted code, formulas.

HTML in a text stands as it was written, as do links and pictures: nothing that a model wrote can be clicked or is
fetched. Control characters and invisible marks are written out, such as [U+001B], before anything else reads the text.
Code is highlighted by Pygments with classes, formulas are drawn as MathML (mathml.py).

Not covered: layout that a text has by its spaces alone, such as a table of blanks; the page shows every text as it was
written as well (`?as=written`). Texts over `LONGEST` characters, and all after `BUDGET` characters on one page, are
shown as written at once: rendering takes time.
"""

from __future__ import annotations

import html
import re
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.ruler import RuleOptionsType
from markdown_it.token import Token
from markupsafe import Markup
from mdit_py_plugins.amsmath import amsmath_block, amsmath_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.texmath.index import RuleDictType, make_block_func, make_inline_func
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from tasks.page import visible
from tasks.viewer.mathml import LONGEST as FORMULA
from tasks.viewer.mathml import formula

LONGEST = 20_000
BUDGET = 200_000
CUT = 100_000
"""characters that are shown of a text; the page says how many are left out"""

_FORMATTER = HtmlFormatter(nowrap=True)
_PROGRAM = re.compile(r"^(?:def |class |import |from \w+ import |#include|@\w+$)", re.MULTILINE)


@dataclass
class Prose:
    """The texts of one page."""

    as_written: bool = False
    """show all texts as they were written"""
    left: int = field(default=BUDGET)
    """characters that may still be rendered"""

    def text(self, text: str | None) -> Markup:
        """A text in a block of its own."""
        text = text or ""
        if self.as_written or len(text) > LONGEST or len(text) > self.left or _is_program(text):
            return written(text)
        self.left -= len(text)
        return Markup('<div class="prose" dir="auto">{}</div>').format(Markup(_MARKDOWN.render(visible(text))))

    def code(self, text: str | None, language: str) -> Markup:
        """A program, highlighted."""
        text = text or ""
        if self.as_written or len(text) > self.left:
            return written(text)
        self.left -= len(text)
        inside = Markup(highlighted(visible(text), language))
        return Markup('<pre class="written code" tabindex="0">{}</pre>').format(inside)


def written(text: str) -> Markup:
    """A text as it was written."""
    left_out = max(len(text) - CUT, 0)
    note = f"\n… {left_out:,} characters left out; `stillhouse show` prints them all" if left_out else ""
    return Markup('<pre class="written" dir="auto" tabindex="0">{}{}</pre>').format(
        visible(text[:CUT]), Markup('<span class="gap">{}</span>').format(note) if note else ""
    )


def highlighted(text: str, language: str) -> str:
    """HTML of a program; only escaped where the language is unknown or the text is long."""
    if len(text) > LONGEST or not re.fullmatch(r"[\w+#.-]{1,30}", language):
        return html.escape(text)
    try:
        lexer = get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        return html.escape(text)
    return str(highlight(text, lexer, _FORMATTER))


def stylesheet() -> str:
    """The colours of highlighted code, for light and dark."""
    light = HtmlFormatter(style="xcode").get_style_defs(".code")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".code")
    rules = [re.sub(r"background(-color)?: #[0-9a-fA-F]+;?", "", one) for one in (light, dark)]
    return f"{rules[0]}\n@media (prefers-color-scheme: dark) {{\n.code {{ color: inherit }}\n{rules[1]}\n}}\n"


def _is_program(text: str) -> bool:
    """A bare program, whose line breaks and indents Markdown would lose."""
    return "```" not in text and bool(_PROGRAM.search(text))


# --- Markdown


def _math(block: bool) -> Any:
    def render(renderer: Any, tokens: Sequence[Token], place: int, options: Any, env: MutableMapping[str, Any]) -> str:
        token = tokens[place]
        drawn = formula(token.content, block=block)
        if drawn is None:
            drawn = f'<code class="tex">{html.escape(token.content.strip())}</code>'
        label = html.escape(token.content.strip())
        if not block:
            return drawn
        element = "div" if token.block else "span"  # a div would end the paragraph around it
        return f'<{element} class="formula" tabindex="0" title="{label}">{drawn}</{element}>'

    return render


def _fence(renderer: Any, tokens: Sequence[Token], place: int, options: Any, env: MutableMapping[str, Any]) -> str:
    token = tokens[place]
    language = (token.info.split() or [""])[0].lower()
    return f'<pre class="code" tabindex="0"><code>{highlighted(token.content, language)}</code></pre>\n'


def _heading(renderer: Any, tokens: Sequence[Token], place: int, options: Any, env: MutableMapping[str, Any]) -> str:
    """A model's headings are no headings of the page."""
    return '<p class="heading">' if tokens[place].nesting == 1 else "</p>\n"


def _rule(name: str, left: str, right: str, end: str = "") -> RuleDictType:
    """A formula between two marks, neither of which stands inside it; `end` is what must follow."""
    one, other = re.escape(left), re.escape(right)
    inside = rf"{one}((?:(?!{one}|{other}).){{1,{FORMULA}}}?){other}{end}"
    return {"name": name, "tag": left, "tmpl": "", "rex": re.compile(inside, re.DOTALL)}


_END_OF_LINE = r"(?=[ \t]*(?:\n|\Z))"
_ANYWHERE: RuleOptionsType = {"alt": ["paragraph", "reference", "blockquote", "list"]}
"""a block that needs no empty line before it"""


def _markdown() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
    made.use(amsmath_plugin)
    made.use(dollarmath_plugin, allow_space=False, allow_digits=False, allow_labels=False, double_inline=True)
    made.block.ruler.at("amsmath", amsmath_block, _ANYWHERE)
    for name, left, right in (("dollars", "$$", "$$"), ("brackets", "\\[", "\\]")):
        block = make_block_func(_rule("math_block", left, right, _END_OF_LINE))
        made.block.ruler.before("fence", f"math_block_{name}", block, _ANYWHERE)
    for place, left, right in (("math_inline", "\\(", "\\)"), ("math_inline_double", "\\[", "\\]")):
        made.inline.ruler.before("escape", f"{place}_brackets", make_inline_func(_rule(place, left, right)))
    made.add_render_rule("math_inline", _math(block=False))
    for name in ("math_inline_double", "math_block", "amsmath"):
        made.add_render_rule(name, _math(block=True))
    for name in ("fence", "code_block"):
        made.add_render_rule(name, _fence)
    for name in ("heading_open", "heading_close"):
        made.add_render_rule(name, _heading)
    # the plugin's own block can't end a paragraph
    return made.disable(
        ["math_block", "link", "image", "autolink", "reference", "html_block", "html_inline", "entity", "lheading"]
    )


_MARKDOWN = _markdown()
