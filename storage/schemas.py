"""The columns of every table, as Arrow schemas.

Each column carries its meaning as field metadata (`doc`), and a mark (`volatile`) where its value differs from run
to run by nature; comparisons and content hashes leave those columns out. Names follow the published
AM-DeepSeek-Distilled schema where that has a name for the thing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa


def column(name: str, kind: pa.DataType, doc: str, *, volatile: bool = False, required: bool = False) -> pa.Field:
    """One documented column; `required` columns hold no null."""
    metadata = {"doc": doc} | ({"volatile": "true"} if volatile else {})
    return pa.field(name, kind, nullable=not required, metadata=metadata)


def is_volatile(field: pa.Field) -> bool:
    return bool(field.metadata and field.metadata.get(b"volatile") == b"true")


TEXT, INT, FLOAT, BOOL = pa.string(), pa.int64(), pa.float64(), pa.bool_()
MESSAGE = pa.struct([("role", TEXT), ("content", TEXT)])
TURN = pa.struct([("role", TEXT), ("content", TEXT), ("tool_calls", TEXT)])
TEST_CASE = pa.struct([("kind", TEXT), ("input", TEXT), ("output", TEXT), ("code", TEXT)])
CONSTRAINT = pa.struct([("id", TEXT), ("kwargs", TEXT)])

CATEGORIES = ("math", "code", "science", "instruction", "chat", "other")
LABEL_DIFFICULTIES = ("easy", "medium", "hard")
"""what a labeller says of a question before any teacher has tried it"""
SPLITS = ("train", "heldout")
STATUSES = (
    "accepted", "wrong_answer", "no_answer", "wrong_format", "no_code", "time_limit", "memory_limit",
    "output_limit", "runtime_error", "compile_error", "unverifiable", "infra_error",
)  # fmt: skip

QUESTIONS = pa.schema([
    column("question_id", TEXT, "128-bit hash of the normalised messages, 32 hex digits", required=True),
    column("messages", pa.list_(MESSAGE), "OpenAI chat messages; the last one is the user's", required=True),
    column("category", TEXT, "math | code | science | instruction | chat | other", required=True),
    column("difficulty_label", TEXT, "the source's own label, if it has one"),
    column("question_source", TEXT, "name of the source in the recipe", required=True),
    column("source_id", TEXT, "the record's key within its source; links versions of a changed question",
           required=True),
    column("license", TEXT, "SPDX id, or what the source says; null is unknown"),
    column("ground_truth", TEXT, "reference answer"),
    column("test_cases", pa.list_(TEST_CASE), "kind is stdin | call | assert"),
    column("checker", TEXT, "program that judges output; runs only where the recipe allows it"),
    column("time_limit_s", FLOAT, "per test, seconds"),
    column("memory_limit_mb", FLOAT, "per test, MiB"),
    column("language", TEXT, "language asked for, e.g. python"),
    column("entry_point", TEXT, "function that tests call"),
    column("instruction_constraints", pa.list_(CONSTRAINT), "IFEval-style constraints; kwargs is JSON"),
    column("metadata", TEXT, "JSON of what the source had besides", required=True),
])  # fmt: skip

CURATED = QUESTIONS.append(column("split", TEXT, "train | heldout", required=True))

EMBEDDINGS = pa.schema([
    column("question_id", TEXT, "the question", required=True),
    column("text_hash", TEXT, "128-bit hash of the embedded text, 32 hex digits", required=True),
    column("model_revision", TEXT, "model@revision: a package's version, a folder's hash, a hub's commit",
           required=True),
    column("vector", pa.list_(pa.float16()), "unit vector of the text, f16; its last bits depend on batch and threads; "
           "zeros where there is a fault", volatile=True, required=True),
    column("fault", TEXT, "why there is no vector; null if there is one"),
])  # fmt: skip

PAIRS = pa.schema([
    column("text_hash", TEXT, "128-bit hash of a text that was compared, 32 hex digits", required=True),
    column("other_hash", TEXT, "of one that it is like, the greater hash; null in the one row that says that the text "
           "was compared"),
    column("similarity", FLOAT, "cosine of their vectors, or Jaccard index of their n-grams; its last digits depend on "
           "the vectors'", volatile=True),
])  # fmt: skip

SCREENED = pa.schema([
    column("question_id", TEXT, "the question", required=True),
    column("text_hash", TEXT, "128-bit hash of the text normalised for exact duplicates", required=True),
    column("rule", TEXT, "the first rule that drops this question; null if none does"),
    column("value", FLOAT, "what was measured; a cosine's last digits depend on batch and threads", volatile=True),
    column("threshold", FLOAT, "what the recipe allows"),
    column("verdict", TEXT, "contaminated | suspect | clean | undecided (the judge failed); undecided is pending"),
    column("evidence", TEXT, "JSON: the benchmark item, the text that matched, the scores", required=True),
])  # fmt: skip

DUPLICATES = pa.schema([
    column("question_id", TEXT, "the question", required=True),
    column("kept_id", TEXT, "representative of its cluster; itself if it is the one", required=True),
    column("rule", TEXT, "exact_duplicate | near_duplicate | lexical_duplicate | near_heldout | no_embedding; null for "
           "one that stays"),
    column("linked_id", TEXT, "the question that it is most like, or by which it was dropped; null without a link"),
    column("similarity", FLOAT, "cosine to that one, its Jaccard index for a lexical duplicate, 1 for an exact one",
           volatile=True),
    column("threshold", FLOAT, "from which the recipe takes two for duplicates"),
    column("split", TEXT, "split of the whole cluster: train | heldout", required=True),
])  # fmt: skip

LABELS = pa.schema([
    column("question_id", TEXT, "the question", required=True),
    column("label_id", TEXT, "hash of question, labeller, its revision and the request, 32 hex digits", required=True),
    column("category", TEXT, "math | code | science | instruction | chat | other; null without a label"),
    column("difficulty", TEXT, "easy | medium | hard; null without a label"),
    column("given_category", TEXT, "the category that the source gave", required=True),
    column("status", TEXT, "labelled | unreadable (no usable label in the reply) | refused | infra_error (pending)",
           required=True),
    column("labeller", TEXT, "its name in the recipe", required=True),
    column("labeller_version", TEXT, "model and revision; version and hash of the prompt", required=True),
    column("reply", TEXT, "the reply's first 1,000 characters, or the error", required=True),
])  # fmt: skip

REWRITES = pa.schema([
    column("question_id", TEXT, "the question", required=True),
    column("rewrite_id", TEXT, "hash of question, rewriter, its revision and the request, 32 hex digits",
           required=True),
    column("text", TEXT, "the new text of its last message; null if none came"),
    column("status", TEXT, "rewritten | numbers_lost, unusable, refused (the question stays as it was) | infra_error "
           "(pending)", required=True),
    column("rewriter", TEXT, "its name in the recipe", required=True),
    column("rewriter_version", TEXT, "model and revision; hash of the prompt", required=True),
    column("error", TEXT, "why the request failed; null for a reply", volatile=True),
])  # fmt: skip

THINNED = pa.schema([
    column("question_id", TEXT, "a question that passed the screen and represents its cluster", required=True),
    column("rule", TEXT, "template_duplicate | thinned_easy | thinned_medium | thinned_crowded; null if it is kept"),
    column("value", FLOAT, "its number among its template's, its draw, or its neighbours"),
    column("threshold", FLOAT, "the most of a template, the rate that is kept, or the neighbours that are allowed"),
    column("evidence", TEXT, "JSON: label and labeller, draw and rate", required=True),
])  # fmt: skip

RESPONSES = pa.schema([
    column("response_id", TEXT, "hash of question_id, teacher, model_revision, sample_index, request hash",
           required=True),
    column("question_id", TEXT, "the question", required=True),
    column("teacher", TEXT, "teacher's name in the recipe", required=True),
    column("model_revision", TEXT, "what exactly answered", required=True),
    column("round", INT, "0: one of the k planned samples; later rounds count as extra", required=True),
    column("sample_index", INT, "0-based", required=True),
    column("think_content", TEXT, "the thinking part; null if there is none"),
    column("answer_content", TEXT, "the answer part; null for a failed request"),
    column("turns", pa.list_(TURN), "multi-turn and tool traces"),
    column("finish_reason", TEXT, "stop | length | the server's own"),
    column("prompt_tokens", INT, "tokens of the prompt"),
    column("completion_tokens", INT, "tokens of the response, thinking included"),
    column("mean_logprob", FLOAT, "mean log-probability of the response's tokens, nats"),
    column("sampling", TEXT, "JSON of the sampling settings sent, and the `prompt`'s name", required=True),
    column("latency_s", FLOAT, "seconds from request to last token", volatile=True),
    column("error", TEXT, "why the request failed; null for a response", volatile=True),
    column("error_kind", TEXT, "transient (asked again by the next run) | refused (not)"),
])  # fmt: skip

SENTENCE_SCORE = pa.struct([("part", TEXT), ("start", INT), ("end", INT), ("tokens", INT), ("mean_logprob", FLOAT)])

SCORES = pa.schema([
    column("response_id", TEXT, "the response", required=True),
    column("question_id", TEXT, "its question", required=True),
    column("teacher", TEXT, "its teacher", required=True),
    column("scorer", TEXT, "scorer's name in the recipe", required=True),
    column("scorer_version", TEXT, "its model, revision, chat template, token limit, engine, dtype", required=True),
    column("text_hash", TEXT, "hash of what was scored: the question's messages, thinking, answer", required=True),
    column("tokens", INT, "tokens of the response that were scored; null if it failed"),
    column("response_tokens", INT, "tokens of the whole response, by the scorer's tokenizer"),
    column("truncated", BOOL, "the end of the response was over the scorer's limit and has no part in the numbers"),
    column("mean_logprob", FLOAT, "of the response given the question, nats a token; its last digits depend on the "
           "batch, as those of all numbers that follow", volatile=True),
    column("perplexity", FLOAT, "exp(-mean_logprob)", volatile=True),
    column("tokens_with_question", INT, "tokens of the question's messages and the response, template marks left out"),
    column("mean_logprob_with_question", FLOAT, "over these tokens", volatile=True),
    column("perplexity_with_question", FLOAT, "exp(-mean_logprob_with_question)", volatile=True),
    column("sentences", pa.list_(SENTENCE_SCORE), "part: think | answer; characters start..end of think_content or "
           "answer_content; its tokens and their mean log-probability", volatile=True),
    column("error", TEXT, "why it could not be scored yet; null for a score", volatile=True),
])  # fmt: skip

PROVENANCE_CLASSES = ("shared", "teacher", "student", "boosted")
TRACED_SENTENCE = pa.struct([
    ("part", TEXT), ("start", INT), ("end", INT), ("class", TEXT), ("teacher_prob", FLOAT), ("student_prob", FLOAT),
    ("trained_prob", FLOAT),
])  # fmt: skip

PROVENANCE = pa.schema([
    column("response_id", TEXT, "the response", required=True),
    column("question_id", TEXT, "its question", required=True),
    column("teacher", TEXT, "who wrote it", required=True),
    column("sentences", pa.list_(TRACED_SENTENCE), "part: think | answer; characters start..end of that part; class: "
           "shared | teacher | student | boosted; exp(mean log-probability) under teacher, student and, for a trained "
           "student's answer, that student", volatile=True),
    column("cut", INT, "sentences without a class, over the token limit of a scorer", required=True),
    column("sentence_count", INT, "sentences with a class", required=True),
    *(column(f"{name}_count", INT, f"of them {name}", required=True) for name in PROVENANCE_CLASSES),
    *(column(f"{name}_share", FLOAT, f"{name}_count / sentence_count; null without a sentence")
      for name in PROVENANCE_CLASSES),
])  # fmt: skip

VERDICTS = pa.schema([
    column("response_id", TEXT, "the response", required=True),
    column("question_id", TEXT, "its question", required=True),
    column("teacher", TEXT, "its teacher", required=True),
    column("sample_index", INT, "its sample index", required=True),
    column("verifier", TEXT, "math | code | instructions | quantity | judge | reward; `outcome` combines them, `trace` "
           "measures form and repetition", required=True),
    column("verifier_version", TEXT, "libraries, image, settings and means of verification", required=True),
    column("verify_score", FLOAT, "0..1; null if infra_error or unverifiable"),
    column("passed", BOOL, "score above the category's threshold; null if not judged"),
    column("status", TEXT, "one of STATUSES", required=True),
    column("answer", TEXT, "the answer in canonical form"),
    column("evidence", TEXT, "JSON: what the verifier saw", required=True),
    column("timing", TEXT, "JSON: seconds, CPU, memory", volatile=True, required=True),
])  # fmt: skip

PASS_AT = ("pass_at_2", "pass_at_4", "pass_at_8", "pass_at_16")
TEACHER_GRADE = pa.struct([
    ("teacher", TEXT), ("n", INT), ("passes", INT), ("pass_rate", FLOAT), ("mean_score", FLOAT), ("cv", FLOAT),
    ("n_extra", INT), ("passes_extra", INT), *((name, FLOAT) for name in PASS_AT),
])  # fmt: skip
VOTE = pa.struct([("answer", TEXT), ("teacher", TEXT), ("votes", INT), ("weight", FLOAT)])

GRADES = pa.schema([
    column("question_id", TEXT, "the question", required=True),
    column("category", TEXT, "its category", required=True),
    column("split", TEXT, "its split", required=True),
    column("teachers", pa.list_(TEACHER_GRADE), "per teacher, round 0 alone; n leaves unverifiable out",
           required=True),
    column("n", INT, "judged round-0 responses of all teachers", required=True),
    column("passes", INT, "passed ones", required=True),
    column("pass_rate", FLOAT, "passes / n, which is pass@1; null if n = 0"),
    *(column(name, FLOAT, f"unbiased pass@{name[8:]} over all teachers; null if n is less") for name in PASS_AT),
    column("mean_score", FLOAT, "mean verify_score; null if n = 0"),
    column("cv", FLOAT, "standard deviation of the scores / their mean; null if the mean is 0 or n < 2"),
    column("best_score", FLOAT, "highest verify_score; null if n = 0"),
    column("difficulty", TEXT, "easy | medium | hard | unsolved | ungraded", required=True),
    column("basis", TEXT, "what says which responses pass: verifiers | vote | repaired (a judge sided with the "
           "majority against the reference) | none", required=True),
    column("majority_answer", TEXT, "the canonical answer with the most weight of votes"),
    column("agreement", FLOAT, "share of answers equal to the majority's"),
    column("vote_share", FLOAT, "the majority's share of the weight; a vote weighs its teacher's accuracy in the "
           "category"),
    column("reference_suspect", BOOL, "the majority agrees on another answer than the reference", required=True),
    column("votes", pa.list_(VOTE), "all answers with votes and the weight of one vote, by answer and teacher; only "
           "where the reference is suspect or repaired, or a vote"),
])  # fmt: skip

REPAIRS = pa.schema([
    column("question_id", TEXT, "a question whose reference is suspect", required=True),
    column("category", TEXT, "its category", required=True),
    column("reference", TEXT, "its ground_truth"),
    column("majority_answer", TEXT, "the teachers' answer, in canonical form", required=True),
    column("vote_share", FLOAT, "the majority's share of the weight", required=True),
    column("votes", pa.list_(VOTE), "all answers, by answer and teacher", required=True),
    column("status", TEXT, "repaired (the judge sides with the majority) | upheld (with the reference) | unclear | "
           "infra_error (not asked yet, or it failed)", required=True),
    column("repaired_to", TEXT, "the new reference, the majority's answer as written where it stood in a box; null if "
           "not repaired"),
    column("judge", TEXT, "model and prompt", required=True),
    column("asked", TEXT, "hash of what the judge was shown", required=True),
    column("reason", TEXT, "the judge's words, with the reference in the first place; or the fault"),
    column("reason_swapped", TEXT, "its words, with the majority's answer in the first place"),
])  # fmt: skip

QUANTILES = ("p5", "p25", "p50", "p75", "p95")
AGREEMENT = pa.struct([("other", TEXT), ("questions", INT), ("equal", FLOAT)])

COMPARISON = pa.schema([
    column("category", TEXT, "the category", required=True),
    column("teacher", TEXT, "the teacher", required=True),
    column("questions", INT, "with a judged response of the teacher", required=True),
    column("n", INT, "its judged responses", required=True),
    column("passes", INT, "passed ones", required=True),
    column("pass_rate", FLOAT, "mean over questions of passes / n"),
    column("low", FLOAT, "95 % interval of pass_rate, over questions"),
    column("high", FLOAT, "its upper end"),
    column("rank", INT, "1: the best pass rate in the category; equal ones share a rank"),
    column("weight", FLOAT, "of one vote of the teacher in the category, 0.01..1", required=True),
    column("tokens", pa.struct([(name, INT) for name in QUANTILES]), "quantiles of completion_tokens"),
    column("perplexity", pa.struct([(name, FLOAT) for name in QUANTILES]),
           "quantiles of exp(-mean_logprob), to hundredths"),
    column("agreement", pa.list_(AGREEMENT), "with each teacher: questions that both answered, mean share of equal "
           "pairs of answers; with itself, of two samples", required=True),
])  # fmt: skip

REPEATS = pa.schema([
    column("response_id", TEXT, "a response with a run of words that stands in the responses to many questions",
           required=True),
    column("question_id", TEXT, "its question", required=True),
    column("teacher", TEXT, "its teacher", required=True),
    column("questions", INT, "for how many questions its most frequent run occurs", required=True),
    column("share", FLOAT, "of its words, 0..1, in runs that occur for too many", required=True),
    column("text", TEXT, "that run", required=True),
])  # fmt: skip

SELECTION = pa.schema([
    column("question_id", TEXT, "the question", required=True),
    column("response_id", TEXT, "the response chosen", required=True),
    column("teacher", TEXT, "its teacher", required=True),
    column("rule", TEXT, "the rule that chose it", required=True),
    column("verify_score", FLOAT, "its outcome's score"),
    column("pass_rate", FLOAT, "of the question over all teachers"),
    column("cv", FLOAT, "of the question over all teachers"),
    column("difficulty", TEXT, "of the question", required=True),
    column("basis", TEXT, "what says that the response is right: verifiers | vote | repaired |"
           " none (with `method: all`)",
           required=True),
    column("curriculum", FLOAT, "train in this order, the least first, equal ones by question_id; null without a "
           "curriculum"),
])  # fmt: skip

ALLOTTED = pa.schema([
    column("question_id", TEXT, "the question", required=True),
    column("response_id", TEXT, "a response that a rule on the whole data set leaves out", required=True),
    column("rule", TEXT, "coreset | no_embedding | category_quota | source_quota | mix | budget", required=True),
    column("value", FLOAT, "distance to the nearest chosen question; place among its category's, source's or "
           "teacher's; examples or tokens up to it"),
    column("threshold", FLOAT, "what the recipe allows"),
])  # fmt: skip

PREFERENCE_PAIRS = pa.schema([
    column("question_id", TEXT, "the question", required=True),
    column("chosen_id", TEXT, "a response that was selected", required=True),
    column("rejected_id", TEXT, "one that was judged and failed", required=True),
    column("chosen_teacher", TEXT, "who wrote the chosen one", required=True),
    column("rejected_teacher", TEXT, "who wrote the rejected one", required=True),
    column("chosen_length", INT, "characters of thinking and answer", required=True),
    column("rejected_length", INT, "of the rejected one", required=True),
    column("length_ratio", FLOAT, "the longer one's over the shorter one's, 1 or more", required=True),
    column("rejected_status", TEXT, "outcome of the rejected one; with basis vote or repaired that of its verifiers, "
           "which the majority's answer stands above", required=True),
    column("basis", TEXT, "what says which of the two is right: verifiers | vote | repaired", required=True),
])  # fmt: skip

LEDGER = pa.schema([
    column("stage", TEXT, "step that dropped the unit", required=True),
    column("unit", TEXT, "record | question | request | score | response | example | pair", required=True),
    column("unit_id", TEXT, "source:file:line for a record, else the id", required=True),
    column("rule", TEXT, "why", required=True),
    column("value", FLOAT, "what was measured"),
    column("threshold", FLOAT, "what the recipe allows"),
    column("evidence", TEXT, "JSON: for a duplicate the row kept, for a contamination the benchmark item",
           required=True),
    column("run_id", TEXT, "the run that dropped it", volatile=True, required=True),
])  # fmt: skip


def all_rows(rows: pa.Table) -> int:
    return int(rows.num_rows)


def screened_questions(rows: pa.Table) -> int:
    """A question that the judge failed to decide on is pending: the next run asks again."""
    return sum(rule != "benchmark_undecided" for rule in rows.column("rule").to_pylist())


def answered_requests(rows: pa.Table) -> int:
    """A failed request is a row, but not a response."""
    return int(rows.column("error_kind").null_count)


def embedded(rows: pa.Table) -> int:
    """A question whose vector isn't finite is pending: the next run tries again. A zero vector is an answer."""
    return sum(fault is None or "not finite" not in fault for fault in rows.column("fault").to_pylist())


def compared_texts(rows: pa.Table) -> int:
    return int(rows.column("other_hash").null_count)


def finished_scores(rows: pa.Table) -> int:
    """A score that failed is a row with its error; its unit is pending (law 5)."""
    return int(rows.column("error").null_count)


def judged_responses(rows: pa.Table) -> int:
    """Outcomes that are a statement about the response; `infra_error` is ours, its unit is pending (law 5)."""
    pairs = rows.select(["verifier", "status"]).to_pydict()
    return sum(
        verifier == "outcome" and status != "infra_error"
        for verifier, status in zip(pairs["verifier"], pairs["status"], strict=True)
    )


def settled(rows: pa.Table) -> int:
    """Questions on which the judge or labeller gave an opinion; the others are pending (law 5)."""
    return sum(status != "infra_error" for status in rows.column("status").to_pylist())


@dataclass(frozen=True)
class Table:
    """A table: its schema, the columns that order its rows, and which rows count as units of its books."""

    name: str
    schema: pa.Schema
    key: tuple[str, ...]
    unit: str
    count_units: Callable[[pa.Table], int] = all_rows
    counted: tuple[str, ...] = ()
    """columns that `count_units` looks at, besides the key"""


TABLES = {
    table.name: table
    for table in (
        Table("questions", QUESTIONS, ("question_id",), "record"),
        Table("embeddings", EMBEDDINGS, ("question_id",), "question", embedded, ("fault",)),
        Table("pairs", PAIRS, ("text_hash", "other_hash"), "text", compared_texts),
        Table("screened", SCREENED, ("question_id",), "question", screened_questions, ("rule",)),
        Table("duplicates", DUPLICATES, ("question_id",), "question"),
        Table("labels", LABELS, ("question_id",), "question", settled, ("status",)),
        Table("thinned", THINNED, ("question_id",), "question"),
        Table("rewrites", REWRITES, ("question_id",), "question", settled, ("status",)),
        Table("curated", CURATED, ("question_id",), "question"),
        Table("responses", RESPONSES, ("response_id",), "request", answered_requests, ("error_kind",)),
        Table("scores", SCORES, ("response_id", "scorer"), "score", finished_scores, ("error",)),
        Table("provenance", PROVENANCE, ("response_id",), "response"),
        Table("verdicts", VERDICTS, ("response_id", "verifier"), "response", judged_responses, ("status",)),
        Table("repairs", REPAIRS, ("question_id",), "reference", settled, ("status",)),
        Table("grades", GRADES, ("question_id",), "question"),
        Table("comparison", COMPARISON, ("category", "teacher"), "teacher"),
        Table("repeats", REPEATS, ("response_id",), "repeat"),
        Table("allotted", ALLOTTED, ("question_id", "response_id"), "response"),
        Table("selection", SELECTION, ("question_id", "response_id"), "response"),
        Table("preference_pairs", PREFERENCE_PAIRS, ("question_id", "chosen_id", "rejected_id"), "pair"),
    )
}
