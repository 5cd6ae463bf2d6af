"""From several judgements to one outcome, by the category's policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    """
    voices = [opinion for opinion in in_order(opinions, route) if opinion.judgement.status != "unverifiable"]
    if not voices:
        return unscored("unverifiable", "no verifier of this category had the means to judge")
    if policy == "first":
        return _as_outcome(voices[0])
    wanted = policy == "rule_or_judge"  # the vote that decides alone
    deciding = next((opinion for opinion in voices if opinion.judgement.passed is wanted), None)
    if deciding:
        return _as_outcome(deciding)
    failed = next((opinion for opinion in voices if opinion.judgement.status == "infra_error"), None)
    return _as_outcome(failed or voices[0])


def in_order(opinions: Sequence[Opinion], route: Sequence[str]) -> list[Opinion]:
    """The opinions in the order of the category's route; verifiers work in an order of their own, rules first."""
    return sorted(opinions, key=lambda opinion: route.index(opinion.verifier))


def is_asked(name: str, opinions: Sequence[Opinion], policy: Policy, route: Sequence[str]) -> bool:
    """Whether this verifier is asked after those whose `opinions` are there: the judge only where it can matter."""
    return name in route and (name != "judge" or judge_can_matter(opinions, policy, route))


def judge_can_matter(opinions: Sequence[Opinion], policy: Policy, route: Sequence[str]) -> bool:
    """Whether the judge's opinion could still change the outcome, given those of the rules; else it isn't paid for."""
    if policy == "first":
        before = route[: route.index("judge")]
        return all(one.judgement.passed is None for one in opinions if one.verifier in before)
    return all(one.judgement.passed is not (policy == "rule_or_judge") for one in opinions)


def _as_outcome(opinion: Opinion) -> Judgement:
    found = opinion.judgement
    evidence: dict[str, object] = {"by": opinion.verifier}
    if found.status == "infra_error":
        evidence["reason"] = found.evidence.get("reason") or found.evidence.get("detail")
    return Judgement(found.score, found.passed, found.status, found.answer, evidence, found.seconds)
