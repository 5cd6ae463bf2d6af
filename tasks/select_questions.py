"""Rules on questions: which stay, by which rule, on what measure. One SQL expression a rule, the first that holds wins.

DeepDistill, Algorithm 1 (arXiv 2504.17565): (1) best score below the category's threshold: drop. (2) CV above CV_t:
keep, with the responses above the threshold only. (3) otherwise drop, but keep `other` and multi-turn with probability
0.5. A held-out question is never kept (law 6).
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from tasks.grade_profiles import literal
from tasks.select_settings import SelectSettings


@dataclass(frozen=True)
class Rule:
    """A rule as SQL over `measured`: where `holds`, the question stays (`keep`) or leaves, by the name of the rule."""

    rule: str
    holds: str
    keep: bool = False
    value: str = "null"
    threshold: str = "null"


KEPT_BY_BASIS = {"vote": "voted", "repaired": "repaired"}
"""Rule by which `verified` keeps a question whose responses are judged by the majority's answer."""


def question_rules(settings: SelectSettings) -> list[Rule]:
    """The rules in the order in which they are asked; the last one always holds."""
    rules = [Rule("heldout", "split <> 'train'")]
    low, high = settings.pass_rate
    if settings.method != "all":
        rules += [Rule("ungraded", "n = 0"), Rule("unsolved", "passes = 0 and passes_later = 0", value="best_score")]
    if (low, high) != (0.0, 1.0):
        rules += [
            Rule("not_measured", "measure is null"),
            Rule("pass_rate_band", f"measure < {low!r}", value="measure", threshold=repr(low)),
            Rule("pass_rate_band", f"measure > {high!r}", value="measure", threshold=repr(high)),
        ]
    later = Rule("verified_later", "passes = 0", keep=True, value="pass_rate")  # a later round has a verified response
    if settings.method == "all":
        return [*rules, Rule("all", "true", keep=True, value="pass_rate")]
    if settings.method == "verified":
        ballots = [Rule(rule, f"basis = '{basis}'", keep=True, value="pass_rate")
                   for basis, rule in KEPT_BY_BASIS.items()]  # fmt: skip
        return [*rules, *ballots, later, Rule("verified", "true", keep=True, value="pass_rate")]
    draw = "('0x' || md5(concat('keep_low_cv ', $seed, ' ', question_id))[:8])::bigint / 4294967296"
    lucky = f"(category = 'other' or multi_turn) and {draw} < {settings.keep_low_cv!r}"
    return [
        *rules,
        later,
        Rule("high_cv", "cv > cv_limit", keep=True, value="cv", threshold="cv_limit"),
        Rule("low_cv_kept", lucky, keep=True, value="cv", threshold="cv_limit"),
        Rule("low_cv", "true", value="cv", threshold="cv_limit"),
    ]


def judge_questions(connection: duckdb.DuckDBPyConnection, settings: SelectSettings) -> None:
    """Make the table `questions`: the graded ones of the views `grades` and `curated`, with `keep`, `rule`, `value`,
    `threshold`, and `measure`, the pass rate that the settings go by (0..1, null without a judged response)."""
    rules = question_rules(settings)
    fates = "\n            ".join(
        f"when {one.holds} then {{'keep': {str(one.keep).lower()}, 'rule': '{one.rule}', "
        f"'value': ({one.value})::double, 'threshold': ({one.threshold})::double}}"
        for one in rules
    )
    of = settings.pass_rate_of
    measure = f"list_filter(teachers, lambda t: t.teacher = {literal(of)})[1].pass_rate" if of else "pass_rate"
    limits = "".join(f" when {literal(name)} then {limit!r}" for name, limit in settings.cv_threshold.items()
                     if name != "default")  # fmt: skip
    cv_limit = f"case category{limits} else {settings.cv_limit('')!r} end" if limits else repr(settings.cv_limit(""))
    dialogue = settings.method == "deepdistill"  # the messages are long: read where they say something
    turns = "len(list_filter(messages, lambda m: m.role = 'user')) > 1" if dialogue else "false"
    connection.execute(f"""
        create or replace temp table questions as
        with asked as (
            select question_id, question_source, {turns} as multi_turn
            from curated
        ), measured as (
            select g.* exclude (teachers, votes), question_source, multi_turn, {measure} as measure,
                coalesce(list_sum(list_transform(teachers, lambda t: t.passes_extra)), 0) as passes_later,
                {cv_limit} as cv_limit
            from grades g
            join asked using (question_id)
        ), judged as (
            select *, case
            {fates}
            end as fate
            from measured
        )
        select question_id, category, question_source, basis, majority_answer, pass_rate, cv, difficulty, measure,
            fate.keep as keep, fate.rule as rule, fate.value as value, fate.threshold as threshold
        from judged
    """, {"seed": settings.seed} if settings.method == "deepdistill" else {})  # fmt: skip
