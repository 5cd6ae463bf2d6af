r"""Reads one answer into sympy: LaTeX by latex2sympy2_extended, prose with a number in it by Math-Verify's own rules.

An answer is read whole or not at all: what the parser leaves over (`4\sqrt(2)` read as 4) makes it unread. Runs in the
worker process only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import latex2sympy2_extended.latex2sympy2 as latex
from antlr4 import Token
from antlr4.atn.PredictionMode import PredictionMode
from latex2sympy2_extended.math_normalization import NormalizationConfig, normalize_latex
from math_verify import grader, parser

from tasks.verifiers.answer_forms import as_latex

_CONFIG = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
)
_FUNCTIONS = (
    "arcsin arccos arctan sinh cosh tanh sin cos tan cot sec csc log ln exp sqrt and or det gcd lcm max min mod inf abs"
)
_FUNCTION_NAMES = frozenset(_FUNCTIONS.split())
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_COMMAND = re.compile(r"\\[A-Za-z]+\*?(?:\{(?:matrix|pmatrix|bmatrix|vmatrix|array|cases|aligned|align)\})?")
_SCIENTIFIC = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([+-]?\d{1,3})(?!\w)", re.ASCII)
_MIXED = re.compile(r"(?<![\w.^{/])(\d{1,9}) (\d{1,9})/(\d{1,9})(?![\w.^])", re.ASCII)
_FUNCTION = re.compile(rf"(?<![\\A-Za-z])({'|'.join(_FUNCTIONS.split()[:15])})(?![A-Za-z])")
_ROOT = re.compile(r"\\sqrt\s*\(([^()]{1,200})\)")
_PI = re.compile(r"(?<![\\A-Za-z])pi(?![A-Za-z])")
_ANGLE = re.compile(r"(\d+(?:\.\d+)?)\s*°", re.ASCII)
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_SET_BUILDER = re.compile(r"\\?\{\s*([a-zA-Z])\s*(?::|\\mid|\||\\vert)\s*(.*?)\s*\\?\}")
_UNIT_TEXT = re.compile(r"(?<=[\w})])\s*\\(?:text|mbox|mathrm|textrm)\s*\{\s*[^{}]*\}(?:\s*\^\s*\{?[23]\}?)?\s*$")
_MEMBER = re.compile(r"^\s*[a-zA-Z]\s*\\in\s*(?=[\[(\\])")
_NATURAL_LOG = re.compile(r"\\log_\{?\s*e\s*\}?")
_STYLED = re.compile(r"\\(?:mathrm|mathit|mathbf|text)\s*\{\s*([a-zA-Z])\s*\}")
_ROW_SKIP = re.compile(r"\\\\\s*\[[^\]]*\]")


class _WholeReader(latex._Latex2Sympy):
    """The library's converter, which also tells whether the grammar used up the text.

    `fast` is ANTLR's SLL prediction: where it reads the whole text, full LL prediction would read the same.
    """

    def __init__(self, *, is_real: bool, fast: bool) -> None:
        super().__init__(is_real=is_real)
        self.fast, self.used_up = fast, False

    def create_parser(self, latex_str: str) -> Any:
        self._grammar = super().create_parser(latex_str)
        self._grammar._interp.predictionMode = PredictionMode.SLL if self.fast else PredictionMode.LL
        return self._grammar

    def parse(self, latex_str: str) -> Any:
        expression = super().parse(latex_str)
        self.used_up = self._grammar.getTokenStream().LA(1) == Token.EOF
        return expression


@lru_cache(maxsize=8192)
def read_answer(text: str) -> Any:
    """The sympy object that an answer is, None where it isn't mathematics as a whole. Kept, since answers repeat.

    Raises MemoryError at the process's limit.
    """
    if is_prose(text):
        found = with_memory_errors(lambda: parser.parse(text, parsing_timeout=None))
        return next((part for part in found if not isinstance(part, str)), None)
    written = as_math(text)
    expression = _read_latex(written)
    if expression is None and (last := parser.get_last_eq(written)) != written:
        expression = _read_latex(last)
    return expression


def _read_latex(written: str) -> Any:
    """The formula as sympy object, None if it isn't one as a whole."""
    normal = normalize_latex(written, _CONFIG)
    for fast in (True, False):
        reader = _WholeReader(is_real=not grader.should_treat_as_complex(written), fast=fast)
        try:
            expression = reader.parse(normal)
        except (MemoryError, RecursionError):
            raise
        except Exception:  # noqa: BLE001 (the library raises anything, also bare Exception)
            continue
        if reader.used_up:
            return expression
    return None


def is_prose(text: str) -> bool:
    """Whether the text is a sentence with a number or formula in it rather than a formula."""
    if text.count("$") >= 2 or "\\(" in text or "\\[" in text or "\\boxed" in text:
        return True
    outside = re.sub(r"\\(?:text|mathrm|mbox|textbf)\s*\{[^{}]*\}", " ", text)
    outside = _COMMAND.sub(" ", outside)
    prose = [word for word in _PROSE.findall(outside) if word.lower() not in _FUNCTION_NAMES]
    return bool(prose) and not re.search(r"[\\^_=]", outside) and " " in outside.strip()


def as_math(text: str) -> str:
    r"""The formula as the parser should see it: plain spellings (`sqrt(2)`, `1e3`, `2 1/2`, `sin x`, `pi`) in LaTeX,
    degrees in trigonometric functions as radians, units in `\text{}` left out, set-builder reduced to its condition."""
    text = _ROW_SKIP.sub(r"\\\\ ", as_latex(text)).strip()
    text = text.rstrip(".") if not text.endswith("..") else text
    text = text.replace("\\$", "").replace("$", "")
    text = re.sub(r"\^\s*(?:\{\s*(?:\\circ|°)\s*\}|\\circ(?![a-z]))|\\degree(?![a-z])|\^°", "°", text)
    text = _STYLED.sub(r"\1", _UNIT_TEXT.sub("", text))
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text)
    text = _PI.sub(r"\\pi ", _FUNCTION.sub(r"\\\1", text))
    text = _SCIENTIFIC.sub(r"\1 \\cdot 10^{\2}", text)
    text = _NATURAL_LOG.sub(r"\\ln ", _ROOT.sub(r"\\sqrt{\1}", text))
    if "°" in text:
        angle = r"(\1 \\cdot \\frac{\\pi}{180})" if _TRIGONOMETRIC.search(text) else r"\1"
        text = _ANGLE.sub(angle, text).replace("°", "")
    if (builder := _SET_BUILDER.fullmatch(text)) is not None:
        text = builder[2]
    text = _MEMBER.sub("", text)
    text = text.replace("<=", "\\le ").replace(">=", "\\ge ").replace("\\lt ", "<").replace("\\gt ", ">")
    return re.sub(r"^\s*\+\s*(?=[\d\\])", "", text)


_Result = TypeVar("_Result")
_LIBRARY = (parser, grader, latex)
_RECOVERABLE = tuple(kind for kind in Exception.__subclasses__() if kind is not MemoryError)


def with_memory_errors(call: Callable[[], _Result]) -> _Result:
    """Call into Math-Verify so that a MemoryError comes out of it.

    The library answers every `except Exception` with False or "not parsed", which would turn a bomb into a
    wrong answer. For the time of the call its modules see a narrower `Exception`; an error of a class not
    known at start takes the plain way.
    """
    for module in _LIBRARY:
        module.Exception = _RECOVERABLE
    try:
        return call()
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001, S110 (a class that is not in the list: once more, the library's own way)
        pass
    finally:
        for module in _LIBRARY:
            del module.Exception
    return call()
