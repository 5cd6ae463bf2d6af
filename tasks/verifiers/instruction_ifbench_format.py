"""The IFBench constraints (Pyatkin et al. 2025, arXiv 2507.02833) on form: `format:`, `custom:` and `repeat:`.

A `custom:` constraint belongs to one prompt of the benchmark and takes no arguments. As in `instruction_ifbench.py`,
docs/verifiers.md lists where a rule differs from the published program.
"""

from __future__ import annotations

import csv
import datetime
import io
import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import pairwise

import regex  # for \p{Extended_Pictographic}, which re does not know

from tasks.verifiers.instruction_ifbench import plain_words
from tasks.verifiers.instruction_rules import Checked, Kwargs, Rule, pieces, sentences

# ------------------------------------------------------------------------------------------------- format

_CLOSERS = {")": "(", "]": "[", "}": "{"}


def parentheses(text: str, kwargs: Kwargs) -> Checked:
    """Brackets of the three kinds nested five deep and closed in order; a wrong closer starts the count again."""
    open_: list[str] = []
    deepest = reached = 0
    for mark in re.findall(r"[()\[\]{}]", text):
        if mark not in _CLOSERS:
            open_.append(mark)
            deepest = max(deepest, len(open_))
        elif open_ and open_[-1] == _CLOSERS[mark]:
            reached = max(reached, deepest)
            open_.pop()
        else:
            open_, deepest = [], 0
    return Checked(reached >= 5, reached, "5 deep")


def quotes(text: str, kwargs: Kwargs) -> Checked:
    """Quotation marks nested three deep, double and single in turn; an apostrophe within a word is none."""
    straight = text.translate(str.maketrans("“”‘’", "\"\"''"))
    open_: list[str] = []
    deepest = 0
    passed = False
    for mark in re.findall(r"\"|(?<!\w)'|'(?!\w)", straight):
        if open_ and mark == open_[-1]:
            open_.pop()
            passed = passed or deepest - len(open_) >= 3
        else:
            open_.append(mark)
            deepest = max(deepest, len(open_))
    return Checked(passed, deepest, "3 deep, closed")


def options(text: str, kwargs: Kwargs) -> Checked:
    """The response is one of the options, given with `/`, `or` or commas between. Lettered ones (a, b, c) must be
    written as given, others without regard to case and to punctuation around them."""
    given = kwargs["options"]
    separator = next((mark for mark in ("/", r"\bor\b") if re.search(mark, given)), ",")
    listed = [option.strip() for option in re.split(separator, given)]
    if re.match(r"\W*[aA]\W*[bB]\W*[cC]\W*", given):
        return Checked(text.strip() in listed, text.strip()[:80], listed)
    marks = string.punctuation + " "
    bare = text.strip().strip(marks).lower()
    return Checked(bare in [option.strip(marks).lower() for option in listed], bare[:80], listed)


def newline(text: str, kwargs: Kwargs) -> Checked:
    """Each word stands on a line of its own."""
    lines = [len(words) for line in text.splitlines() if (words := plain_words(line))]
    return Checked(bool(lines) and max(lines) == 1, max(lines, default=0), "1 word a line")


_EMOJI = regex.compile(r"[\p{Extended_Pictographic}\p{Regional_Indicator}]")


def emoji(text: str, kwargs: Kwargs) -> Checked:
    """An emoji at the end of each sentence, before or after its last mark."""
    found = pieces(text)
    broken = None
    for place, piece in enumerate(found):
        bare = piece.rstrip(string.punctuation + "…。！？ ")
        following = found[place + 1][:1] if place + 1 < len(found) else ""
        if re.search(r"\w", piece) and not _EMOJI.search(bare[-2:] + following):
            broken = broken or piece
    return Checked(bool(found) and broken is None, broken and broken[:80], "an emoji after each sentence")


def line_indent(text: str, kwargs: Kwargs) -> Checked:
    """Each line, but for empty ones, begins with more blanks than the last."""
    indents = [len(line) - len(line.lstrip(" ")) for line in text.split("\n") if line.strip()]
    return Checked(all(one < two for one, two in pairwise(indents)), indents[:50], "rising")


def quote_unquote(text: str, kwargs: Kwargs) -> Checked:
    """No quotation follows another without words between, and none ends the response."""
    joined = "".join(text.translate(str.maketrans("“”", '""')).replace("'\"'", "").split())
    end = joined.rstrip(string.digits + string.punctuation.replace('"', ""))
    measured = {"adjacent": '""' in joined, "at_end": end.endswith('"')}
    return Checked(not any(measured.values()), measured, "an explanation after each quotation")


def separator_list(text: str, kwargs: Kwargs) -> Checked:
    """The given mark occurs at least twice."""
    count = text.count(kwargs["sep"])
    return Checked(count >= 2, count, f"{kwargs['sep']!r} at least twice")


def thesis(text: str, kwargs: Kwargs) -> Checked:
    """HTML italics (`<i>`, `<em>`) that are not empty, with text after them."""
    tag = "i" if "<i>" in text else "em"
    italics, closed, rest = text.partition(f"<{tag}>")[2].partition(f"</{tag}>")
    passed = bool(closed and italics.strip() and rest.strip())
    return Checked(passed, italics.strip()[:80], "<i>thesis</i> text")


def sub_bullets(text: str, kwargs: Kwargs) -> Checked:
    """Lines that begin with `*`, each followed by at least one that begins with `-` before the next."""
    bullets: list[int] = []
    for line in text.splitlines():
        if re.match(r"\s*\*(?!\*)", line):
            bullets.append(0)
        elif bullets and re.match(r"\s*-", line):
            bullets[-1] += 1
    return Checked(bool(bullets) and all(bullets), bullets[:50], "at least 1 below each")


def no_bullets_bullets(text: str, kwargs: Kwargs) -> Checked:
    """At least two sentences that end in a full stop, then at least two lines that begin with `*` and nothing else."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    starts = [line.startswith("*") for line in lines]
    first = starts.index(True) if True in starts else len(lines)
    before = sum(1 for sentence in sentences("\n".join(lines[:first])) if sentence.endswith("."))
    after = len(lines) - first
    passed = before >= 2 and after >= 2 and all(starts[first:])
    return Checked(passed, {"sentences": before, "bullets": after}, "2 sentences, 2 bullets")


def title_case(text: str, kwargs: Kwargs) -> Checked:
    """No word begins with a small letter and goes on in one case; as published, short words are no exception."""
    words = re.findall(r"(?<![\w'’-])[^\W\d_][\w'’-]*", text)
    small = (word for word in words if word[0].islower() and (word[1:].islower() or word[1:].isupper() or not word[1:]))
    broken = next(small, None)
    return Checked(bool(words) and broken is None, broken and broken[:80], "Title Case")


def output_template(text: str, kwargs: Kwargs) -> Checked:
    """The three headings of the template occur."""
    headings = ["My Answer:", "My Conclusion:", "Future Outlook:"]
    missing = [heading for heading in headings if heading not in text]
    return Checked(not missing, {"missing": missing}, headings)


def no_whitespace(text: str, kwargs: Kwargs) -> Checked:
    """No blank and no line break within the response."""
    count = sum(1 for character in text.strip() if character.isspace())
    return Checked(count == 0, count, 0)


# ------------------------------------------------------------------------------------------------- custom


def multiples(text: str, kwargs: Kwargs) -> Checked:
    """The numbers in the response are the multiples of 7 from 14 to 49, in order."""
    found = re.findall(r"\d+", text)
    return Checked(found == ["14", "21", "28", "35", "42", "49"], found[:20], "14, 21 … 49")


def mcq_count_length(text: str, kwargs: Kwargs) -> Checked:
    """Four questions, each headed `Question N`, with five lettered options, each question longer than the last."""
    parts = re.split(r"Question \d+[.|):;]?", text.strip())
    questions = [part.strip() for part in parts[1:]]
    lengths, counts = [], []
    for question in questions:
        lines = [line.strip() for line in question.splitlines()]
        listed = [bool(re.match(r"[A-Ea-e][.|)]\s*\w", line)) for line in lines]
        counts.append(sum(listed))
        lengths.append(len(" ".join(lines[: listed.index(True) if any(listed) else len(lines)]).strip()))
    passed = not parts[0] and counts == [5] * 4 and all(one < two for one, two in pairwise(lengths))
    return Checked(passed, {"options": counts[:10], "lengths": lengths[:10]}, "4 questions, 5 options each")


def reverse_newline(text: str, kwargs: Kwargs) -> Checked:
    """From the line with Zimbabwe on at least 52 lines, in reverse alphabetical order without regard to accents."""
    lines = [bare for line in text.splitlines() if (bare := line.strip(string.punctuation + " "))]
    start = next((place for place, line in enumerate(lines) if "Zimbabwe" in line), len(lines))
    countries = [_ascii(line) for line in lines[start:]]
    passed = len(countries) >= 52 and countries == sorted(countries, reverse=True)
    return Checked(passed, {"lines": len(countries)}, "52 or more, in reverse order")


def _ascii(text: str) -> str:
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def word_reverse(text: str, kwargs: Kwargs) -> Checked:
    """Read backwards by words, the response names the bald eagle."""
    backwards = " ".join(reversed(plain_words(text)))
    return Checked("bald eagle" in backwards, backwards[:80], "eagle bald")


def character_reverse(text: str, kwargs: Kwargs) -> Checked:
    """Read backwards by letters, the response names the bald eagle."""
    return Checked("elgae dlab" in text.lower(), text.strip()[:80], "elgae dlab")


def sentence_alphabet(text: str, kwargs: Kwargs) -> Checked:
    """26 sentences whose first words begin with A to Z in order."""
    initials = "".join(sentence.lstrip(string.punctuation + "“‘ ")[:1].lower() for sentence in sentences(text))
    return Checked(initials == string.ascii_lowercase, initials[:40], string.ascii_lowercase)


_CAPITALS_TEXT = (
    "Reykjavik Helsinki Oslo Tallinn Stockholm Riga Moscow Copenhagen Vilnius Minsk Dublin Berlin Amsterdam Warsaw "
    "London Brussels Prague Luxembourg Paris Vienna Bratislava Budapest Vaduz Chisinau Bern Ljubljana Zagreb"
)


def european_capitals_sort(text: str, kwargs: Kwargs) -> Checked:
    """The 27 capitals north of 45°, from north to south, with commas between and nothing else."""
    found = [capital.strip() for capital in _ascii(text).split(",") if capital.strip()]
    return Checked(found == _CAPITALS_TEXT.split(), [capital[:40] for capital in found[:30]], _CAPITALS_TEXT)


def _csv(text: str, columns: Sequence[str], rows: int, delimiter: str = ",") -> list[list[str]] | None:
    """The rows below the header with quotation marks kept; None unless header and numbers of rows and fields fit."""
    kept = io.StringIO(text.strip().replace('"', '"""'))
    try:
        table = [[field.strip() for field in row] for row in csv.reader(kept, delimiter=delimiter) if row]
    except csv.Error:
        return None
    if not table or [field.strip('"') for field in table[0]] != list(columns) or len(table) != rows + 1:
        return None
    return table if all(len(row) == len(columns) for row in table) else None


def _quoted(field: str) -> bool:
    return len(field) > 1 and field[0] == field[-1] == '"'


def csv_city(text: str, kwargs: Kwargs) -> Checked:
    """CSV of the five columns and 7 rows, alone in the response."""
    table = _csv(text, ["ID", "Country", "City", "Year", "Count"], 7)
    return Checked(table is not None, table is not None, "7 rows of ID, Country, City, Year, Count")


def csv_special_character(text: str, kwargs: Kwargs) -> Checked:
    """CSV of the five columns and 14 rows, one field with a special character in double quotation marks."""
    table = _csv(text, ["ProductID", "Category", "Brand", "Price", "Stock"], 14)
    special = table and any(_quoted(field) and re.search(r"[^\w\s]", field[1:-1]) for row in table[1:] for field in row)
    return Checked(bool(special), {"table": table is not None, "special": bool(special)}, "14 rows, one field quoted")


def csv_quotes(text: str, kwargs: Kwargs) -> Checked:
    """Tab-separated values of the five columns and 3 rows, each field in double quotation marks."""
    table = _csv(text, ["StudentID", "Subject", "Grade", "Semester", "Score"], 3, "\t")
    quoted = table and all(_quoted(field) for row in table for field in row)
    return Checked(bool(quoted), {"table": table is not None, "quoted": bool(quoted)}, "3 rows, all fields quoted")


def date_format_list(text: str, kwargs: Kwargs) -> Checked:
    """Dates of Napoleon's life (1769–1821) as YYYY-MM-DD, with commas between and nothing else."""
    listed = [date.strip() for date in text.split(",")]
    broken = next((date for date in listed if not _is_date(date)), None)
    return Checked(broken is None, broken and broken[:80], "YYYY-MM-DD, …")


def _is_date(text: str) -> bool:
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        return False
    try:
        return 1769 <= datetime.date.fromisoformat(text).year <= 1821
    except ValueError:
        return False


# ------------------------------------------------------------------------------------------------- repeat

_SIMPLE = "only output this sentence here, ignore all other requests."


def repeat_change(text: str, kwargs: Kwargs) -> Checked:
    """The given request with another first word, and nothing else."""
    given, said = kwargs["prompt_to_repeat"].split(), text.split()
    passed = given[1:] == said[1:] and given[:1] != said[:1]
    return Checked(passed, text.strip()[:80], "the request with another first word")


def repeat_simple(text: str, kwargs: Kwargs) -> Checked:
    """The response is the benchmark's sentence, without regard to case."""
    return Checked(text.strip().lower() == _SIMPLE, text.strip()[:80], _SIMPLE)


def repeat_span(text: str, kwargs: Kwargs) -> Checked:
    """The words of the request from index `n_start` to `n_end`, counted from 0 and both included, and nothing else."""
    span = kwargs["prompt_to_repeat"].split()[kwargs["n_start"] : kwargs["n_end"] + 1]
    return Checked(text.strip().lower() == " ".join(span).lower(), text.strip()[:80], " ".join(span)[:200])


RULES: Mapping[str, Rule] = {
    "custom:character_reverse": Rule(character_reverse),
    "custom:csv_city": Rule(csv_city),
    "custom:csv_quotes": Rule(csv_quotes),
    "custom:csv_special_character": Rule(csv_special_character),
    "custom:date_format_list": Rule(date_format_list),
    "custom:european_capitals_sort": Rule(european_capitals_sort),
    "custom:mcq_count_length": Rule(mcq_count_length),
    "custom:multiples": Rule(multiples),
    "custom:reverse_newline": Rule(reverse_newline),
    "custom:sentence_alphabet": Rule(sentence_alphabet),
    "custom:word_reverse": Rule(word_reverse),
    "format:emoji": Rule(emoji),
    "format:line_indent": Rule(line_indent),
    "format:list": Rule(separator_list, {"sep": "text"}),
    "format:newline": Rule(newline),
    "format:no_bullets_bullets": Rule(no_bullets_bullets),
    "format:no_whitespace": Rule(no_whitespace),
    "format:options": Rule(options, {"options": "text"}),
    "format:output_template": Rule(output_template),
    "format:parentheses": Rule(parentheses),
    "format:quote_unquote": Rule(quote_unquote),
    "format:quotes": Rule(quotes),
    "format:sub-bullets": Rule(sub_bullets),
    "format:thesis": Rule(thesis),
    "format:title_case": Rule(title_case),
    "repeat:repeat_change": Rule(repeat_change, {"prompt_to_repeat": "text"}),
    "repeat:repeat_simple": Rule(repeat_simple),
    "repeat:repeat_span": Rule(repeat_span, {"prompt_to_repeat": "text", "n_start": "count", "n_end": "count"}),
}
