"""Kinds of question that one rule can't judge, or that a text alone can't answer: figures, proofs, choices, parts.

Each function returns the piece of the text that shows the kind, or None. Which papers drop what: O1 Replication Journey
part 2 (arXiv 2411.16489) images and proofs; AceReason (arXiv 2505.16400) multiple choice, true/false, sub-questions,
proofs and figures. They publish no patterns; these are ours, written for English and measured in docs/filters.md.
Not covered: other languages, beyond pictures as markup and lettered options.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

SEEN = 200
"""characters of a finding that are kept"""

_PICTURE = re.compile(
    r"!\[[^\]\n]{0,200}\]\([^)\n]{1,500}\)|<img\b[^>\n]{0,300}|\\includegraphics\b|"
    r"[\[<](?:image|figure|picture|graphic|diagram)(?:[ _-]?\d{0,3})[\]>]",
    re.IGNORECASE,
)
_DRAWN = re.compile(
    r"\[asy\]|\\begin\{(?:tikzpicture|asy|picture|pspicture)\}|<svg\b|```(?:mermaid|svg|tikz)", re.IGNORECASE
)
_THING = (
    r"(?:figures?|diagrams?|pictures?|images?|drawings?|illustrations?|photos?|photographs?|sketch|graphs?|charts?)"
)
_SEEN_THING = _THING.replace("|graphs?|charts?", "")
_REFERS = re.compile(
    rf"\b(?:in|on|from|of|by|using|see|consider|refer to|according to) (?:the|this|these|each) (?:following )?"
    rf"{_THING}(?: (?:shown|given|drawn|provided))? ?"
    rf"(?:below|above|at (?:the )?(?:right|left)|to the (?:right|left)|here)\b|"
    rf"\b(?:the|this) (?:accompanying|adjoining|adjacent|attached) {_THING}\b|"
    rf"\bin the {_SEEN_THING}[,.]|\b(?:see|in) (?:figure|fig\.) ?\d|\b{_THING} (?:below|above) (?:shows?|is|are)\b|"
    rf"\b(?:shown|pictured|depicted|illustrated|drawn) in the {_SEEN_THING}\b",
    re.IGNORECASE,
)
_SHOWN = re.compile(
    r"\bas (?:shown|pictured|depicted|illustrated|drawn|sketched)\b(?! (?:by|that|in \$))|"
    r"\b(?:shown|pictured|depicted|illustrated|drawn) (?:below|above|here|(?:at|to|on) the (?:right|left))\b|"
    r"\b(?:is|are) (?:shown|pictured|depicted)[.,;]|\b(?:shown|pictured|depicted)\?",
    re.IGNORECASE,
)
_FOLLOWS = re.compile(r"\n|\\begin\{|\$\$|\\\[|```")
"""after `shown below`: the thing itself, in the text"""

_START = r"(?:^|[.;:!?]\s{1,3}|\n\s{0,3}|[,;]? (?:and|then|also) |\)\s{1,3})"
_PROOF = re.compile(
    rf"{_START}(?:please )?(?:prove|disprove|show|demonstrate|verify|justify|establish|deduce)\s{{1,3}}"
    rf"(?:that|the following|this|it|your|why|by (?:induction|contradiction))\b|"
    rf"{_START}(?:please )?(?:prove|disprove)(?::|\s)|"
    rf"\b(?:give|write|provide|present|find|complete) (?:a|an|the|your) (?:[a-z-]{{1,20}} )?proof\b|"
    rf"\bprove or disprove\b|"
    r"\b(?:use|using)\b[^.?!\n]{1,60} to (?:prove|show that)\b",
    re.IGNORECASE,
)  # fmt: skip

_OPTION_FORMS = (
    re.compile(r"(?<![\w)\]])\\?\(\s?([A-J])\s?\\?\)"),  # (A), \textbf{(A)}; not f(A)
    re.compile(r"^[\s>*#-]{0,6}\**([A-J])\s?[.):]\**(?=\s|\$)", re.MULTILINE),  # A. or A) at the start of a line
    re.compile(r"(?<=[\s;,])([A-J])\)(?=\s)"),  # A) in the line
)
_CHOSEN_FORMS = (
    re.compile(r"(?<=[\s;,])([A-J])\.(?=\s)"),
    re.compile(r"\\(?:textbf|text|mathrm|mathbf)\{\s?([A-J])[.)]?\s?\}"),
    re.compile(r"(?<!\w)\(([a-j])\)"),
    re.compile(r"^\s{0,6}\**([a-j])[.)](?=\s)", re.MULTILINE),
)
"""labels only after words such as `which of the following`"""
_DRAWING = re.compile(r"\[asy\].*?(?:\[/asy\]|$)", re.DOTALL)
_DRAWN_OPTION = re.compile(r'"\s?\(([A-J])\)')
_CHOOSE = re.compile(
    r"\b(?:which (?:one )?(?:of )?(?:the )?(?:following|these)|choose|select|pick|"
    r"options?|choices?|multiple[- ]choice)\b",
    re.IGNORECASE,
)
_TRUTH = re.compile(
    r"(?:^|[.;:!?(\n]\s{0,3})(?:answer |is it |state |say |mark )?(?:with )?['\"“*]{0,3}true['\"”*]{0,3}"
    r"(?: or |/|, )['\"“*]{0,3}false['\"”*]{0,3}\s{0,2}[:?.)\n]|"
    r"\b(?:determine|decide|state|say|tell|judge|indicate|identify|check)\b[^.?!\n]{0,120}?\b(?:whether|if)\b"
    r"[^.?!\n]{0,120}?\b(?:statements?|claims?|propositions?|assertions?|following)\b[^.?!\n]{0,120}?"
    r"\b(?:true|false|correct|valid)\b|"
    r"\b(?:is|are) (?:the|this|these) (?:following |above )?(?:statements?|claims?|propositions?|assertions?)\b"
    r"[^.?!\n]{0,80}\b(?:true|false|correct|valid)\b|"
    r"\b(?:answer|respond|reply) (?:only )?(?:with )?(?:a )?(?:simple )?['\"“]?(?:yes|true)['\"”]?"
    r" or ['\"“]?(?:no|false)\b",
    re.IGNORECASE,
)  # fmt: skip

_PART_FORMS = (
    (re.compile(r"(?<![\w)\]])\(\s?([a-h])\s?\)"), "abcdefgh"),
    (re.compile(r"^\s{0,6}\**([a-h])[.)]\**(?=\s)", re.MULTILINE), "abcdefgh"),
    (re.compile(r"(?<![\w)\]])\(\s?(i{1,3}|iv|vi{0,3})\s?\)"), ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii")),
    (re.compile(r"(?<![\w)\]])\(\s?([1-9])\s?\)"), "123456789"),
    (re.compile(r"^\s{0,6}\**([1-9])[.)]\**(?=\s)", re.MULTILINE), "123456789"),
    (re.compile(r"\bpart \(?([a-h])\)?[:.)]", re.IGNORECASE), "abcdefgh"),
)
_ASKS = re.compile(
    r"^\W{0,8}(?:find|compute|determine|calculate|evaluate|solve|prove|show|what|how|which|why|when|where|who|write|state|"
    r"give|sketch|draw|explain|describe|list|name|is|are|does|do|can|simplify|express|estimate|verify|let|if|suppose|"
    r"for|discuss|identify|compare|derive|construct|implement)\b",
    re.IGNORECASE,
)  # fmt: skip
_CONDITION = re.compile(r"^\W{0,8}(?:let|if|suppose|for|is|are|do|does|can)\b", re.IGNORECASE)


def missing_figure(text: str) -> str | None:
    """A picture by reference, or words that point at one, where no drawing in code stands in the text."""
    if match := _PICTURE.search(text):
        return match.group()[:SEEN]
    if _DRAWN.search(text):
        return None
    if match := _REFERS.search(text):
        return _around(text, match)
    match = _SHOWN.search(text)
    return _around(text, match) if match and not _FOLLOWS.search(text, match.end()) else None


def any_figure(text: str) -> str | None:
    """As `missing_figure`, and drawings in code (Asymptote, TikZ, SVG) too."""
    match = _DRAWN.search(text)
    return match.group() if match else missing_figure(text)


def proof(text: str) -> str | None:
    """A request to prove something."""
    match = _PROOF.search(text)
    return _around(text, match) if match else None


def multiple_choice(text: str) -> str | None:
    """Options A, B, C in this order and in one form; fewer, or small letters, after words such as `which of these`."""
    words = _DRAWING.sub(" ", text)
    for form in _OPTION_FORMS:
        if found := _run(form, words, "ABCDEFGHIJ", 3):
            return found
    if not (chosen := _CHOOSE.search(words)):
        return None
    asked = words[chosen.start() :]
    for form in _CHOSEN_FORMS:
        if found := _run(form, asked, "abcdefghij", 3):
            return found
    return _run(_OPTION_FORMS[0], asked, "ABCDEFGHIJ", 2) or _run(_DRAWN_OPTION, text, "ABCDEFGHIJ", 3)


def true_false(text: str) -> str | None:
    """A request to say whether something is true; one of two answers is right by chance."""
    match = _TRUTH.search(text)
    return _around(text, match) if match else None


def sub_questions(text: str) -> str | None:
    """Two or more numbered parts that each ask something: (a) Find … (b) Find …; numbered conditions are none."""
    for form, labels in _PART_FORMS:
        places = list(_labelled(form, text, labels))
        if len(places) < 2:
            continue
        ends = [start for start, _ in places[1:]] + [len(text)]
        parts = [text[after:end] for (_, after), end in zip(places, ends, strict=True)]
        asking = [part for part in parts if _asks(part)]
        if len(asking) >= 2:
            return " … ".join(part.strip()[:60] for part in asking[:3])
    return None


def _asks(part: str) -> bool:
    return bool("?" in part or (_ASKS.search(part) and not _CONDITION.search(part)))


def _labelled(form: re.Pattern[str], text: str, labels: str | tuple[str, ...]) -> Iterator[tuple[int, int]]:
    """Where each label of a run that begins with the first one stands: (start, end)."""
    wanted = 0
    for match in form.finditer(text):
        if wanted < len(labels) and match.group(1).lower() == labels[wanted].lower():
            wanted += 1
            yield match.span()


def _run(form: re.Pattern[str], text: str, labels: str, least: int) -> str | None:
    """The first options, if there are `least` of them and they stand not too far from each other."""
    places = list(_labelled(form, text, labels))[:least]
    if len(places) < least or any(later[0] - earlier[1] > 400 for earlier, later in pairwise(places)):
        return None
    return text[places[0][0] : places[-1][1] + 20][:SEEN]


def _around(text: str, match: re.Match[str]) -> str:
    """What matched, with a little of what stands about it."""
    start, end = max(match.start() - 30, 0), min(match.end() + 50, len(text))
    return text[start:end].strip()[:SEEN]
