"""From a reward model's outputs to a judgement: which outputs count, how they combine, what passes.

One output: score = sigmoid(output). Several: the sum of the named attributes divided by `divide_by`, within 0..1; by
default (coherence + correctness + helpfulness) / 12, each on HelpSteer's 0–4 scale (DeepDistill, arXiv 2504.17565,
multi-turn and other: passes above 0.7). For both ways to ask a model: in this process (`reward`), on a server
(`reward_endpoint`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from tasks.errors import BadSetting
from tasks.verifiers.verdict import Item, Judgement, unscored

RULES_REVISION = 2  # raise it whenever what is asked of the model, or how its outputs are read, can change a verdict


class RewardModelError(BadSetting):
    """A model that can't serve as a reward model; the message says why and what would do."""


@dataclass(frozen=True)
class RewardRule:
    """What a category's score is made of, and above what it passes."""

    attributes: tuple[str, ...] = ("coherence", "correctness", "helpfulness")
    divide_by: float = 12.0
    threshold: float = 0.7


@dataclass(frozen=True)
class RewardRules:
    """The rule of each category; `default` where there is no other."""

    default: RewardRule = RewardRule()
    by_category: Mapping[str, RewardRule] = field(default_factory=dict)

    def of(self, category: str) -> RewardRule:
        return self.by_category.get(category, self.default)

    def as_json(self) -> dict[str, object]:
        return asdict(self)

    def check(self, model: str, outputs: Sequence[str]) -> None:
        """Raises RewardModelError unless the model has one output or all attributes that a rule names."""
        for rule in (self.default, *self.by_category.values()) if len(outputs) != 1 else ():
            missing = [attribute for attribute in rule.attributes if column(outputs, attribute) is None]
            if missing:
                raise RewardModelError(
                    f"{model} has the outputs {', '.join(outputs)}; wanted one output, or outputs named "
                    f"{', '.join(rule.attributes)}; name them in order with verify.reward.outputs"
                )


def column(outputs: Sequence[str], attribute: str) -> int | None:
    """The place of the output whose name holds the attribute's, without regard to case; one that equals it first."""
    names = [name.lower() for name in outputs]
    wanted = attribute.lower()
    if wanted in names:
        return names.index(wanted)
    return next((place for place, name in enumerate(names) if wanted in name), None)


def judge_outputs(
    row: Sequence[float], outputs: Sequence[str], rule: RewardRule, evidence: dict[str, object], seconds: float
) -> Judgement:
    """The judgement of one response from the model's raw outputs, named by `outputs`, which `RewardRules.check` passed.

    Outputs that are not finite are `infra_error`. Scores are rounded to 5 digits: padding to another length moves the
    sixth.
    """
    if not all(math.isfinite(value) for value in row):
        return unscored("infra_error", "the reward model's output is not finite", seconds, **evidence)
    if len(outputs) == 1:
        score = 1 / (1 + math.exp(-max(-60.0, min(60.0, row[0]))))
        evidence = {**evidence, "logit": round(row[0], 5)}
    else:
        values = {attribute: row[column(outputs, attribute) or 0] for attribute in rule.attributes}
        score = min(1.0, max(0.0, sum(values.values()) / rule.divide_by))
        evidence = {**evidence, **{name: round(value, 5) for name, value in values.items()}}
    score = round(score, 5)
    passed = score > rule.threshold
    return Judgement(score, passed, "accepted" if passed else "wrong_answer", None, evidence, seconds)


def dialogue(item: Item) -> list[dict[str, str]]:
    """The whole conversation with the response's answer part as its last turn, for the model's chat template."""
    before = [{"role": message.role, "content": message.content} for message in item.earlier]
    return [
        *before,
        {"role": "user", "content": item.question},
        {"role": "assistant", "content": item.answer_content},
    ]


def empty_answer() -> Judgement:
    return Judgement(0.0, False, "no_answer", None, {"reason": "empty answer"}, 0.0)
