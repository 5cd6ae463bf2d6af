"""Which language a question is written in, by py3langid (langid.py's model; the same answer every time).

Formulas, drawings and code say nothing about it and are left out. A text with too few letters, or one that the model
is not sure of, has no language, and the filter lets it pass.
"""

from __future__ import annotations

import re
import threading
from functools import cache
from typing import Any

LETTERS = 20
"""A text with fewer has no language for us: `Evaluate.` is taken for Romanian."""
SURE = 0.8
"""Probability from which the model is believed."""
SAMPLE = 5_000
"""characters that are judged"""

_NO_PROSE = re.compile(
    r"\[asy\].*?\[/asy\]|```.*?(?:```|$)|\$\$.*?\$\$|\$[^$\n]{1,2000}\$|\\\[.*?\\\]|\\\(.*?\\\)|\\[a-zA-Z]+|\bhttps?://\S+",
    re.DOTALL,
)
_NO_LETTER = re.compile(r"[^\w\s'’-]|[\d_]")
_WRITTEN_ALIKE = {"yue": "zh", "wuu": "zh", "nb": "no", "nn": "no", "hr": "sr", "bs": "sr"}
"""taken together: the model tells them apart poorly in writing"""

_loading = threading.Lock()


def language(text: str) -> tuple[str, float] | None:
    """(ISO 639 code, probability ≥ SURE), or None."""
    prose = " ".join(_NO_LETTER.sub(" ", _NO_PROSE.sub(" ", text[: 2 * SAMPLE])).split())[:SAMPLE]
    if sum(char.isalpha() for char in prose) < _letters_needed(prose):
        return None
    shares: dict[str, float] = {}
    for name, share in _model().rank(prose)[:8]:
        same = _WRITTEN_ALIKE.get(name, name)
        shares[same] = shares.get(same, 0.0) + float(share)
    best = max(shares, key=lambda name: (shares[name], name))
    return (best, min(shares[best], 1.0)) if shares[best] >= SURE else None


def _letters_needed(prose: str) -> float:
    """A letter of Chinese or Japanese says as much as three of an alphabet."""
    return LETTERS / 3 if any("\u3040" <= char <= "\u9fff" for char in prose) else LETTERS


@cache
def _loaded() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # unpacks its model: a second

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _model() -> Any:
    with _loading:
        return _loaded()
