"""Licences of what is exported: which one is the most restrictive, what all of them ask for, and which are unknown.

A licence is what a source, a record or a teacher of the recipe states, as an SPDX id or expression or in the spellings
that data sets use. Known ones stand below in order, from the freest to the most restrictive; one that nobody stated, or
that isn't in the list, is unknown and ranks above all. Of `A OR B` the freer one counts, a known one before an unknown;
of `A AND B` both do; an exception (`A WITH B`) frees nothing here. Covered: an order that errs on the strict side, and
what rows under different licences ask for together. Not covered: law.

A source without a known licence is refused. A teacher that states an unknown one is, too; one that states none is let
through with a warning, since most publish terms of use and no licence of what they write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import license_expression

from tasks.errors import StageError

ATTRIBUTION, SHARE_ALIKE, USE, NON_COMMERCIAL, NO_DERIVATIVES = (
    "attribution", "share-alike", "limits on use", "non-commercial", "no derivatives",
)  # fmt: skip
UNKNOWN = "unknown"
LONGEST = 500
"""characters of an expression; records are anybody's"""

LADDER: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    # conditions, then licences that ask for them, the freer first
    ((), ("cc0-1.0", "pddl-1.0", "unlicense", "0bsd", "public-domain")),
    ((ATTRIBUTION,), (
        "mit", "isc", "zlib", "bsl-1.0", "bsd-2-clause", "bsd-3-clause", "apache-2.0", "cdla-permissive-2.0",
        "cdla-permissive-1.0", "odc-by-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
    )),
    ((ATTRIBUTION, SHARE_ALIKE), (
        "mpl-2.0", "cdla-sharing-1.0", "odbl-1.0", "cc-by-sa-2.0", "cc-by-sa-2.5", "cc-by-sa-3.0", "cc-by-sa-4.0",
        "gfdl-1.3", "lgpl-2.1", "lgpl-3.0", "gpl-2.0", "gpl-3.0", "agpl-3.0",
    )),
    ((ATTRIBUTION, USE), (
        "openrail", "creativeml-openrail-m", "bigscience-openrail-m", "bigcode-openrail-m", "gemma", "llama2", "llama3",
        "llama3.1", "llama3.2", "llama3.3", "llama4",
    )),
    ((ATTRIBUTION, NON_COMMERCIAL), ("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0")),
    ((ATTRIBUTION, SHARE_ALIKE, NON_COMMERCIAL), ("cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0")),
    ((ATTRIBUTION, USE, NON_COMMERCIAL), ("research-only",)),
    ((ATTRIBUTION, NO_DERIVATIVES), ("cc-by-nd-4.0",)),
    ((ATTRIBUTION, NON_COMMERCIAL, NO_DERIVATIVES), ("cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0")),
)  # fmt: skip

_RANKS = {name: rank for rank, name in enumerate(name for _, names in LADDER for name in names)}
_CONDITIONS = {name: conditions for conditions, names in LADDER for name in names}
_HUB_IDS = {"public-domain": "other", "research-only": "other", "zlib": "zlib", "odc-by-1.0": "odc-by",
            "odbl-1.0": "odbl", "pddl-1.0": "pddl", "gfdl-1.3": "gfdl"}  # fmt: skip
"""ours → the Hugging Face hub's, where they differ"""


class UnknownLicense(StageError):
    """Something would be exported whose licence nobody knows."""


@dataclass(frozen=True)
class Licensing:
    """What may be done with the whole of an export."""

    strictest: str
    """the most restrictive of all licences, as a name of LADDER, or `unknown`"""
    conditions: tuple[str, ...]
    """what the licences ask for, all together"""
    several: bool
    """whether there is more than one licence"""
    unknown: tuple[str, ...]
    """who has no known licence: `source code: none stated`"""
    choices: tuple[str, ...] = ()
    """expressions that leave a choice, with what was chosen: `MIT OR GPL-3.0 → mit`"""
    silent: tuple[str, ...] = ()
    """teachers that state no licence"""

    @property
    def hub_id(self) -> str:
        """For a card's front matter: the strictest licence's id, or `other` where it doesn't ask for all."""
        if self.strictest == UNKNOWN:
            return UNKNOWN
        covers = set(self.conditions) <= set(_CONDITIONS[self.strictest])
        return _HUB_IDS.get(self.strictest, self.strictest) if covers else "other"

    def sentences(self) -> list[str]:
        """What a person should know, one sentence each."""
        asks = ", ".join(self.conditions) or "nothing"
        found = [f"Most restrictive licence: {self.strictest}. The licences together ask for: {asks}."]
        if self.several:
            found.append("Licences differ by row: see `license`.")
        if self.choices:
            found.append(f"Where a licence leaves a choice, the freer one is counted: {'; '.join(self.choices)}.")
        if SHARE_ALIKE in self.conditions and self.several:
            found.append("Share-alike rows keep their own licence; two share-alike licences may not be compatible.")
        if NO_DERIVATIVES in self.conditions:
            found.append("Rows without the right to derivatives may be unfit for training and for passing on: ask.")
        if self.unknown:
            found.append(f"Nobody knows the licence of: {'; '.join(self.unknown)}.")
        if self.silent:
            found.append(silence(self.silent))
        return found

    def line(self) -> str:
        """For the end of a command."""
        return f"{self.strictest} ({', '.join(self.conditions) or 'no conditions'})"


def known_license(text: str | None) -> str | None:
    """The name in LADDER of a licence as it is written, or None for one that is not there.

    Case, blanks and underscores don't matter, nor do the words "license" and "licence", an SPDX `-only`, `-or-later` or
    `+`, or the address of a Creative Commons licence. A text that begins "research only" is `research-only`, whatever
    follows.
    """
    plain = re.sub(r"[\s_,]+", "-", (text or "").strip().lower())
    if plain in _RANKS:
        return plain
    if re.match(r"(for-)?research-only\b", plain):
        return "research-only"
    if found := re.search(r"creativecommons\.org/licenses/(by[a-z-]*)/(\d\.\d)", plain):
        plain = f"cc-{found[1]}-{found[2]}"
    plain = re.sub(r"^the-|-licen[sc]e\b|-version\b|-(only|or-later)$|\+$", "", plain)
    plain = re.sub(r"^(apache|mpl|[al]?gpl)-?v?(\d(?:\.\d)?)$", r"\1-\2", plain)
    plain = re.sub(r"^(apache|mpl|[al]?gpl)-(\d)$", r"\1-\2.0", plain)
    plain = {"cc0": "cc0-1.0", "llama-3.1": "llama3.1", "odc-by": "odc-by-1.0", "odbl": "odbl-1.0"}.get(plain, plain)
    return plain if plain in _RANKS else None


def silence(teachers: Iterable[str]) -> str:
    """What is to be said of teachers that state no licence."""
    return (f"Nobody states the licence or terms of what these teachers write: {', '.join(teachers)}. Their terms may "
            "forbid to train other models on it, or to pass it on.")  # fmt: skip


def terms_of(text: str | None) -> tuple[str, ...]:
    """The names in LADDER of the licences that hold together for a licence as it is written; empty: unknown.

    An SPDX expression is read by `license-expression`. Of an OR the freest known side is taken: that with the fewest
    conditions, then the lowest rank.
    """
    if (name := known_license(text)) is not None:
        return (name,)
    if len(text or "") > LONGEST:
        return ()
    try:
        parsed = license_expression.Licensing().parse(text or "")
    except Exception:  # noqa: BLE001  anybody's text: on `()` or `( AND - -` the parser fails in ways of its own
        return ()
    return () if parsed is None else _terms(parsed)


def _terms(part: license_expression.LicenseExpression) -> tuple[str, ...]:
    if isinstance(part, license_expression.LicenseWithExceptionSymbol):
        return _terms(part.license_symbol)
    if isinstance(part, license_expression.LicenseSymbol):
        name = known_license(re.sub(r"^licenseref-", "", part.key, flags=re.IGNORECASE))
        return () if name is None else (name,)
    sides = [_terms(one) for one in part.args]
    if part.operator.strip().upper() == "OR":
        return min((side for side in sides if side), key=_strictness, default=())
    return tuple(sorted({name for side in sides for name in side})) if all(sides) else ()


def _strictness(names: tuple[str, ...]) -> tuple[int, int]:
    return len({one for name in names for one in _CONDITIONS[name]}), max(_RANKS[name] for name in names)


def licensing(rows: Iterable[tuple[str, str | None]], teachers: Iterable[tuple[str, str | None]] = ()) -> Licensing:
    """The licences of sources (source, licence) and of teachers, taken together; None: it states none."""
    stated = list(teachers)
    names: set[str] = set()
    unknown, choices = [], set()
    who = [("source", *row) for row in rows] + [("teacher", *row) for row in stated if row[1] is not None]
    for kind, name, text in sorted(who, key=lambda one: (one[0], one[1], one[2] or "")):
        if found := terms_of(text):
            names.update(found)
            if re.search(r"\sOR\s", text or "", flags=re.IGNORECASE):
                choices.add(f"{text} → {' and '.join(found)}")
        else:
            unknown.append(f"{kind} {name}: {repr(text) if text and text.strip() else 'none stated'}")
    conditions = {one for name in names for one in _CONDITIONS[name]}
    order = (ATTRIBUTION, SHARE_ALIKE, USE, NON_COMMERCIAL, NO_DERIVATIVES)
    strictest = UNKNOWN if unknown or not names else max(names, key=lambda name: _RANKS[name])
    return Licensing(strictest, tuple(one for one in order if one in conditions), len(names) + bool(unknown) > 1,
                     tuple(unknown), tuple(sorted(choices)),
                     tuple(sorted(name for name, text in stated if text is None)))  # fmt: skip


def check_licenses(rows: Iterable[tuple[str, str | None]], teachers: Mapping[str, str | None], *,
                   allow: bool) -> Licensing:  # fmt: skip
    """The licensing of what is to be exported. Raises UnknownLicense where a licence is unknown and not allowed."""
    found = licensing(rows, teachers.items())
    if found.unknown and not allow:
        listed = "; ".join(found.unknown[:5]) + (f"; and {len(found.unknown) - 5} more" if found.unknown[5:] else "")
        raise UnknownLicense(
            f"export: unknown licence of {listed}. State it in the recipe (`license` of the source or teacher, or a "
            "license column; an id such as Apache-2.0 or CC-BY-SA-4.0, see docs/export.md), or export it as unknown: "
            "--allow-unknown-license, or export.allow_unknown_license: true"
        )
    return found
