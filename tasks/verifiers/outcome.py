"""From several judgements to one outcome, by the category's policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tasks.verifiers.settings import Policy
from tasks.verifiers.verdict import Judgement, unscored


@dataclass(frozen=True)
class Opinion:
    """One verifier's judgement of a response."""

    verifier: str
    version: str
    judgement: Judgement


def combine_opinions(opinions: Sequence[Opinion], policy: Policy, route: Sequence[str]) -> Judgement:
    """The outcome of opinions of the verifiers in `route`, in whatever order they were given.

    first: the first of the route that could judge. rule_or_judge: passed if any passed (DeepDistill asks a judge where
    the rule says wrong). rule_and_judge: passed if all passed (REDI). A verifier that had nothing to go by
    (`unverifiable`) has no say; one that failed (`infra_error`) makes the outcome wait wherever it could change it.

    The outcome's `answer`, by which the teachers vote, is the deciding verifier's; where that is a judge, which gives
    none, or nobody, it is the first one of the route. A reward model's opinion is about no answer.
    """
    ordered = in_order(opinions, route)
    voices = [opinion for opinion in ordered if opinion.judgement.status != "unverifiable"]
    if voices:
        found = _as_outcome(_deciding(voices, policy))
    else:
        found = unscored("unverifiable", "no verifier of this category had the means to judge")
    if found.answer is not None or found.status == "infra_error" or found.evidence.get("by") == "reward":
        return found
    return replace(found, answer=next((one.judgement.answer for one in ordered if one.judgement.answer), None))


def _deciding(voices: Sequence[Opinion], policy: Policy) -> Opinion:
    if policy == "first":
        return voices[0]
    wanted = policy == "rule_or_judge"  # the vote that decides alone
    deciding = next((opinion for opinion in voices if opinion.judgement.passed is wanted), None)
    failed = next((opinion for opinion in voices if opinion.judgement.status == "infra_error"), None)
    return deciding or failed or voices[0]


def in_order(opinions: Sequence[Opinion], route: Sequence[str]) -> list[Opinion]:
    """The opinions in the order of the category's route; verifiers work in an order of their own, rules first."""
    return sorted(opinions, key=lambda opinion: route.index(opinion.verifier))


MODELS = ("judge", "reward")
"""Verifiers that cost a model's time."""


def is_asked(name: str, opinions: Sequence[Opinion], policy: Policy, route: Sequence[str]) -> bool:
    """Whether this verifier is asked after those whose `opinions` are there: a model only where it can matter."""
    return name in route and (name not in MODELS or can_matter(name, opinions, policy, route))


def can_matter(name: str, opinions: Sequence[Opinion], policy: Policy, route: Sequence[str]) -> bool:
    """Whether one more opinion could still change the outcome, given those that are there; else it isn't paid for."""
    if policy == "first":
        before = route[: route.index(name)]
        return all(one.judgement.status == "unverifiable" for one in opinions if one.verifier in before)
    return all(one.judgement.passed is not (policy == "rule_or_judge") for one in opinions)


def _as_outcome(opinion: Opinion) -> Judgement:
    found = opinion.judgement
    evidence: dict[str, object] = {"by": opinion.verifier}
    if found.status == "infra_error":
        evidence["reason"] = found.evidence.get("reason") or found.evidence.get("detail")
    return Judgement(found.score, found.passed, found.status, found.answer, evidence, found.seconds)
