"""The IFBench constraints (Pyatkin et al. 2025, arXiv 2507.02833) on counts, ratios, words and sentences.

A rule follows the published check, which is the benchmark's definition, but for what the published program gets wrong
by its own wording: docs/verifiers.md lists each difference. Not covered: `words:start_verb` (wants a part-of-speech
tagger) and `words:odd_even_syllables` (wants a dictionary of syllables). The constraints on form stand in
`instruction_ifbench_format.py`.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

from tasks.verifiers.instruction_rules import Checked, Kwargs, Rule, sentences

_MARKS = string.punctuation + "“”‘’«»„…·¡¿、。「」『』！？：；，（）"
_REMOVED = str.maketrans({**dict.fromkeys(_MARKS), "—": " ", "–": " "})

# NLTK's English stop words, those that a run of \w can be (of "don't" that is `don` and `t`).
_STOP_WORDS_TEXT = """
i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers herself it its
itself they them their theirs themselves what which who whom this that these those am is are was were be been being
have has had having do does did doing a an the and but if or because as until while of at by for with about against
between into through during before after above below to from up down in out on off over under again further then once
here there when where why how all any both each few more most other some such no nor not only own same so than too very
s t can will just don should now d ll m o re ve y ain aren couldn didn doesn hadn hasn haven isn ma mightn mustn needn
shan shouldn wasn weren won wouldn
"""
_STOP_WORDS = frozenset(_STOP_WORDS_TEXT.split())
_CONJUNCTIONS = frozenset(["and", "but", "for", "nor", "or", "so", "yet"])
_PRONOUNS_TEXT = """
i me we us you he him she her it they them my mine our ours your yours his hers its their theirs myself ourselves
yourself yourselves himself herself itself themselves this that these those who whom whose which what whoever whomever
whatever whichever anybody anyone anything everybody everyone everything nobody nothing somebody someone something each
either neither both all some any none
"""
_PRONOUNS = frozenset(_PRONOUNS_TEXT.split())
_NAMES_TEXT = """
Emma Liam Sophia Jackson Olivia Noah Ava Lucas Isabella Mason Mia Ethan Charlotte Alexander Amelia Benjamin Harper Leo
Zoe Daniel Chloe Samuel Lily Matthew Grace Owen Abigail Gabriel Ella Jacob Scarlett Nathan Victoria Elijah Layla
Nicholas Audrey David Hannah Christopher Penelope Thomas Nora Andrew Aria Joseph Claire Ryan Stella Jonathan
"""
_NAMES = tuple(_NAMES_TEXT.split())


def plain_words(text: str) -> list[str]:
    """Words in lower case without any punctuation: `well-known` is `wellknown`, `don't` is `dont`."""
    return text.lower().translate(_REMOVED).split()


def bare_words(text: str) -> list[str]:
    """Words in lower case as they stand between blanks, without the punctuation around them."""
    return [bare for word in text.lower().split() if (bare := word.strip(_MARKS + "—–"))]


def whole_word(word: str, text: str) -> int:
    """How often a word or phrase occurs as a whole, without regard to case."""
    return len(re.findall(rf"(?<!\w){re.escape(word.strip())}(?!\w)", text, flags=re.IGNORECASE))


def _at_least(measured: int, wanted: int) -> Checked:
    return Checked(measured >= wanted, measured, f"at least {wanted}")


def _all(broken: str | None, wanted: str) -> Checked:
    """Holds unless something breaks it; the first offender is the measurement."""
    return Checked(broken is None, None if broken is None else broken[:80], wanted)


# ------------------------------------------------------------------------------------------- counts, ratios


def word_count_range(text: str, kwargs: Kwargs) -> Checked:
    r"""Between so many and so many words, both included; a word is a run of `\w`."""
    low, high = kwargs["min_words"], kwargs["max_words"]
    count = len(re.findall(r"\w+", text))
    return Checked(low <= count <= high, count, f"{low} to {high}")


def unique_word_count(text: str, kwargs: Kwargs) -> Checked:
    """At least so many different words."""
    return _at_least(len(set(bare_words(text))), kwargs["N"])


def conjunctions(text: str, kwargs: Kwargs) -> Checked:
    """At least so many different ones of and, but, for, nor, or, so, yet."""
    return _at_least(len(_CONJUNCTIONS.intersection(bare_words(text))), kwargs["small_n"])


def person_names(text: str, kwargs: Kwargs) -> Checked:
    """At least so many different ones of the 50 given names, as whole words."""
    found = set(re.findall(r"\w+", text)).intersection(_NAMES)
    return _at_least(len(found), kwargs["N"])


def numbers(text: str, kwargs: Kwargs) -> Checked:
    """Exactly so many numbers; `3.14` and `100,000` are one each."""
    count = len(re.findall(r"\d+", text.translate(_REMOVED)))
    return Checked(count == kwargs["N"], count, kwargs["N"])


def punctuation(text: str, kwargs: Kwargs) -> Checked:
    """Each of . , ! ? ; : occurs, and an interrobang (`?!`, `!?` or `‽`) besides."""
    rest, joined = re.subn(r"\?!|!\?|‽", "", text, count=1)
    missing = [mark for mark in ".,!?;:" if mark not in rest] + ([] if joined else ["?!"])
    return Checked(not missing, {"missing": missing}, ". , ! ? ; : ?!")


def words_japanese(text: str, kwargs: Kwargs) -> Checked:
    """Every n-th word, but for numbers, holds a Japanese character."""
    every = [word.strip(_MARKS) for word in text.split()[kwargs["N"] - 1 :: kwargs["N"]]]
    japanese = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
    foreign = (word for word in every if word and not word.isdigit() and not japanese.search(word))
    return _all(next(foreign, None), f"word {kwargs['N']} of each {kwargs['N']} in Japanese")


def pronouns(text: str, kwargs: Kwargs) -> Checked:
    """At least so many pronouns; `it's` holds one."""
    return _at_least(sum(1 for word in re.findall(r"[^\W\d_]+", text.lower()) if word in _PRONOUNS), kwargs["N"])


def keywords_multiple(text: str, kwargs: Kwargs) -> Checked:
    """Five keywords, as whole words, exactly once, twice, three, five and seven times."""
    counts = [whole_word(kwargs[f"keyword{number}"], text) for number in range(1, 6)]
    return Checked(counts == [1, 2, 3, 5, 7], counts, [1, 2, 3, 5, 7])


def stop_words(text: str, kwargs: Kwargs) -> Checked:
    """Stop words (NLTK's English list) are at most so many percent of the words; without words it is broken."""
    words = re.findall(r"\w+", text.lower())
    percent = 100 * sum(1 for word in words if word in _STOP_WORDS) / len(words) if words else None
    passed = percent is not None and percent <= kwargs["percentage"]
    return Checked(passed, None if percent is None else round(percent, 2), f"at most {kwargs['percentage']} %")


def _endings(text: str) -> Counter[str]:
    """How many sentences end in which mark, closing quotes, brackets and emphasis aside."""
    return Counter(sentence.rstrip("\"'”’)]*_» ")[-1:] for sentence in sentences(text))


def sentence_type(text: str, kwargs: Kwargs) -> Checked:
    """Twice as many sentences end in a full stop as in a question mark, and one at least does."""
    ends = _endings(text)
    return Checked(ends["."] == 2 * ends["?"] > 0, {".": ends["."], "?": ends["?"]}, "2:1")


def sentence_balance(text: str, kwargs: Kwargs) -> Checked:
    """As many sentences end in a full stop as in a question mark and an exclamation mark, and one at least does."""
    ends = _endings(text)
    measured = {mark: ends[mark] for mark in ".?!"}
    return Checked(0 < ends["."] == ends["?"] == ends["!"], measured, "1:1:1")


def overlap(text: str, kwargs: Kwargs) -> Checked:
    """The share of the response's different trigrams that the reference text has, ± 2 percentage points."""
    wanted = kwargs["percentage"]
    own, given = _trigrams(text), _trigrams(kwargs["reference_text"])
    percent = 100 * len(own & given) / len(own) if own else None
    passed = percent is not None and abs(percent - wanted) <= 2
    return Checked(passed, None if percent is None else round(percent, 2), f"{wanted} ± 2 %")


def _trigrams(text: str) -> set[tuple[str, str, str]]:
    tokens = re.findall(r"\w+(?:[-'’.]\w+)*|[^\w\s]", text)
    return set(zip(tokens, tokens[1:], tokens[2:], strict=False))


def sentence_words(text: str, kwargs: Kwargs) -> Checked:
    """Three sentences of the same number of characters, no word twice."""
    found = sentences(text)
    lengths, words = [len(sentence) for sentence in found], plain_words(" ".join(found))
    passed = len(found) == 3 and len(set(lengths)) == 1 and len(words) == len(set(words))
    return Checked(passed, {"characters": lengths[:10], "repeated": len(words) - len(set(words))}, "3, equally long")


# ------------------------------------------------------------------------------------------------- words


def alphabet(text: str, kwargs: Kwargs) -> Checked:
    """Each word begins with the letter after that of the word before, A after Z; the first begins anywhere."""
    initials = "".join(word[0] for word in plain_words(text))
    start = string.ascii_lowercase.find(initials[:1]) if initials else -1
    wanted = "".join(string.ascii_lowercase[(start + place) % 26] for place in range(len(initials)))
    passed = start >= 0 and initials == wanted
    return Checked(passed, initials[:80], wanted[:80])


def vowel(text: str, kwargs: Kwargs) -> Checked:
    """One paragraph, with at most three of the vowels a, e, i, o, u."""
    lines, used = text.strip().count("\n") + 1, sorted(set("aeiou").intersection(text.lower()))
    return Checked(lines == 1 and len(used) <= 3, {"lines": lines, "vowels": used}, "1 line, at most 3 vowels")


def consonants(text: str, kwargs: Kwargs) -> Checked:
    """Each word has two consonants together, y being one."""
    without = (word for word in bare_words(text) if not re.search(r"[bcdfghj-np-tv-z]{2}", word))
    return _all(next(without, None), "a consonant cluster in each word")


def palindrome(text: str, kwargs: Kwargs) -> Checked:
    """At least ten words of five or more characters that read the same backwards; repeated ones count again."""
    return _at_least(sum(1 for word in plain_words(text) if len(word) >= 5 and word == word[::-1]), 10)


def prime_lengths(text: str, kwargs: Kwargs) -> Checked:
    """The length of each word is a prime number; without words it is broken."""
    words = plain_words(text)
    broken = next((word for word in words if not _is_prime(len(word))), None) if words else ""
    return _all(broken, "prime lengths only")


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def repeats(text: str, kwargs: Kwargs) -> Checked:
    """No word occurs more than so many times."""
    [(word, count)] = Counter(plain_words(text)).most_common(1) or [("", 0)]
    return Checked(count <= kwargs["small_n"], {"word": word[:80], "times": count}, f"at most {kwargs['small_n']}")


def last_first(text: str, kwargs: Kwargs) -> Checked:
    """The last word of each sentence is the first of the next."""
    words = [bare_words(sentence) or [""] for sentence in sentences(text)]
    broken = next((f"{one[-1]} | {two[0]}" for one, two in pairwise(words) if one[-1] != two[0]), None)
    return _all(broken, "last word = next first word")


def paragraph_last_first(text: str, kwargs: Kwargs) -> Checked:
    """Each line ends with the word that it begins with."""
    lines = [words for line in text.splitlines() if (words := bare_words(line))]
    broken = next((f"{words[0]} … {words[-1]}" for words in lines if words[0] != words[-1]), None)
    return _all(broken, "first word = last word of each paragraph")


def no_consecutive(text: str, kwargs: Kwargs) -> Checked:
    """No two words in a row begin with the same letter."""
    broken = (f"{one} {two}" for one, two in pairwise(plain_words(text)) if one[0] == two[0])
    return _all(next(broken, None), "no two in a row with one initial")


def keywords_specific_position(text: str, kwargs: Kwargs) -> Checked:
    """The m-th word of the n-th sentence is the keyword."""
    found, n, m = sentences(text), kwargs["n"], kwargs["m"]
    words = bare_words(found[n - 1]) if n <= len(found) else []
    word = words[m - 1] if m <= len(words) else None
    return Checked(
        word == kwargs["keyword"].strip().lower(), word, f"{kwargs['keyword']!r} as word {m} of sentence {n}"
    )


def words_position(text: str, kwargs: Kwargs) -> Checked:
    """The second word and the last but one are the keyword."""
    words = bare_words(text)
    places = [words[1], words[-2]] if len(words) > 1 else []
    return Checked(places == [kwargs["keyword"].strip().lower()] * 2, places, f"{kwargs['keyword']!r} twice")


# --------------------------------------------------------------------------------------------- sentences


def alliteration_increment(text: str, kwargs: Kwargs) -> Checked:
    """Each sentence has more words that stand in alliterative runs (neighbours with one initial) than the last."""
    counts = [_alliterative(bare_words(sentence)) for sentence in sentences(text)]
    return Checked(all(one < two for one, two in pairwise(counts)), counts[:50], "rising")


def _alliterative(words: list[str]) -> int:
    same = [one[0] == two[0] for one, two in pairwise(words)]
    return sum(1 if before else 2 for before, now in zip([False, *same], same, strict=False) if now)


def sentence_keyword(text: str, kwargs: Kwargs) -> Checked:
    """The n-th sentence holds the word, as a whole word."""
    found, n = sentences(text), kwargs["N"]
    passed = n <= len(found) and whole_word(kwargs["word"], found[n - 1]) > 0
    return Checked(passed, {"sentences": len(found)}, f"{kwargs['word']!r} in sentence {n}")


def increment(text: str, kwargs: Kwargs) -> Checked:
    """Each sentence has exactly so many words more than the last."""
    counts = [len(plain_words(sentence)) for sentence in sentences(text)]
    passed = all(two - one == kwargs["small_n"] for one, two in pairwise(counts))
    return Checked(bool(counts) and passed, counts[:50], f"{kwargs['small_n']} more each")


RULES: Mapping[str, Rule] = {
    "count:conjunctions": Rule(conjunctions, {"small_n": "count"}),
    "count:keywords_multiple": Rule(keywords_multiple, {f"keyword{number}": "text" for number in range(1, 6)}),
    "count:numbers": Rule(numbers, {"N": "count"}),
    "count:person_names": Rule(person_names, {"N": "count"}),
    "count:pronouns": Rule(pronouns, {"N": "count"}),
    "count:punctuation": Rule(punctuation),
    "count:unique_word_count": Rule(unique_word_count, {"N": "count"}),
    "count:word_count_range": Rule(word_count_range, {"min_words": "count", "max_words": "count"}),
    "count:words_japanese": Rule(words_japanese, {"N": "position"}),
    "ratio:overlap": Rule(overlap, {"reference_text": "text", "percentage": "count"}),
    "ratio:sentence_balance": Rule(sentence_balance),
    "ratio:sentence_type": Rule(sentence_type),
    "ratio:sentence_words": Rule(sentence_words),
    "ratio:stop_words": Rule(stop_words, {"percentage": "count"}),
    "sentence:alliteration_increment": Rule(alliteration_increment),
    "sentence:increment": Rule(increment, {"small_n": "count"}),
    "sentence:keyword": Rule(sentence_keyword, {"word": "text", "N": "position"}),
    "words:alphabet": Rule(alphabet),
    "words:consonants": Rule(consonants),
    "words:keywords_specific_position": Rule(
        keywords_specific_position, {"keyword": "text", "n": "position", "m": "position"}
    ),
    "words:last_first": Rule(last_first),
    "words:no_consecutive": Rule(no_consecutive),
    "words:palindrome": Rule(palindrome),
    "words:paragraph_last_first": Rule(paragraph_last_first),
    "words:prime_lengths": Rule(prime_lengths),
    "words:repeats": Rule(repeats, {"small_n": "count"}),
    "words:vowel": Rule(vowel),
    "words:words_position": Rule(words_position, {"keyword": "text"}),
}
