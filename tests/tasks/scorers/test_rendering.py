"""Proves which tokens are counted to question, response and sentence, and that what gets lost on the way is refused,
with a reason. On the real tokenizer of SmolLM2 and its template, and on templates that do odd things."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tasks.scorers.rendering import Rendered, Rendering, Unscorable
from tasks.scorers.scorer import ScorerError
from tasks.scorers.sentences import sentence_spans
from tasks.scorers.settings import TransformersScorerSettings, VLLMScorerSettings
from tasks.teachers import smollm2

ASKED = [{"role": "user", "content": "What is 2 + 2?"}]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def model(smollm2_cache: Path, tmp_path: Path):
    """A folder with SmolLM2's tokenizer, whose template can be replaced."""
    folder = tmp_path / "model"
    shutil.copytree(smollm2.model_path(), folder, ignore=shutil.ignore_patterns("*.safetensors"))

    def with_template(template: str | None = None) -> str:
        if template is not None:
            (folder / "chat_template.jinja").write_text(template)
        return str(folder)

    return with_template


def rendering(model: str, **settings: Any) -> Rendering:
    return Rendering(TransformersScorerSettings(name="s", engine="transformers", model=model, **settings))


def decoded(model: str, rendered: Rendered, places: Any) -> str:
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    text: str = tokenizer.decode([rendered.ids[place] for place in places])
    return text


def test_the_response_is_all_of_it_and_each_sentence_has_its_own_tokens(model):
    folder = model()
    think, answer = "Two and two.\nThat is 4, i.e. four. Sure?", "It is \\boxed{4}. 😀\n\nDone."
    found = rendering(folder).render(ASKED, think, answer)
    assert isinstance(found, Rendered) and not found.truncated
    assert decoded(folder, found, range(found.response_from, len(found.ids))) == (
        f"<think>\n{think}\n</think>\n\n{answer}"
    )
    assert found.response_tokens == len(found.ids) - found.response_from
    assert decoded(folder, found, found.question).strip() == "What is 2 + 2?"
    parts = {"think": think, "answer": answer}
    shown = [(parts[one.part][one.start : one.end], one.tokens) for one in found.sentences]
    assert [text for text, _ in shown] == [
        "Two and two.", "That is 4, i.e. four.", "Sure?", "It is \\boxed{4}. 😀", "Done.",
    ]  # fmt: skip
    assert [decoded(folder, found, range(t.start, t.stop)).strip() for _, t in shown] == [text for text, _ in shown]


def test_a_response_without_thinking_has_no_tags_and_one_that_broke_off_no_closing_tag(model):
    folder = model()
    plain = rendering(folder).render(ASKED, None, "4")
    broken = rendering(folder).render(ASKED, "Let me", "")
    assert isinstance(plain, Rendered) and isinstance(broken, Rendered)
    assert decoded(folder, plain, range(plain.response_from, len(plain.ids))) == "4"
    assert decoded(folder, broken, range(broken.response_from, len(broken.ids))) == "<think>\nLet me"


def test_a_tag_that_the_template_opens_is_not_written_twice_nor_scored(model):
    folder = model(CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif"))
    found = rendering(folder).render(ASKED, "Hm.", "4")
    bare = rendering(folder).render(ASKED, None, "4")
    assert isinstance(found, Rendered) and isinstance(bare, Rendered)
    assert decoded(folder, found, range(len(found.ids))).endswith("assistant\n<think>\nHm.\n</think>\n\n4")
    assert decoded(folder, found, range(found.response_from, len(found.ids))) == "Hm.\n</think>\n\n4"
    assert decoded(folder, bare, range(len(bare.ids))).endswith("assistant\n<think>\n</think>\n\n4")
    assert decoded(folder, bare, range(bare.response_from, len(bare.ids))) == "4"


def test_a_template_that_drops_thinking_from_answers_drops_nothing_here(model):
    folder = model(CHATML.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}"))
    found = rendering(folder).render(ASKED, "Hm.", "4")
    assert isinstance(found, Rendered) and "Hm." in decoded(folder, found, range(found.response_from, len(found.ids)))


def test_what_is_over_the_limit_is_cut_and_counted(model):
    folder = model()
    whole = rendering(folder).render(ASKED, None, "one two three. four five six.")
    assert isinstance(whole, Rendered)
    limit = whole.response_from + 2
    cut = rendering(folder, max_tokens=limit).render(ASKED, None, "one two three. four five six.")
    assert isinstance(cut, Rendered) and cut.truncated and not whole.truncated
    assert cut.ids == whole.ids[:limit] and cut.response_tokens == whole.response_tokens
    assert [(one.start, one.end, one.tokens.stop - one.tokens.start) for one in cut.sentences] == [(0, 14, 2)]
    none = rendering(folder, max_tokens=whole.response_from).render(ASKED, None, "one")
    assert none == Unscorable("question_too_long", whole.response_from, whole.response_from - 1)


@pytest.mark.parametrize(
    ("template", "rule"),
    [
        (CHATML.replace("{{ m.content }}", "{{ m.content if m.role == 'user' }}"), "question_changed"),
        (CHATML.replace("{{ m.content }}", "{{ m.content | upper }}"), "question_changed"),
        (CHATML.replace("{{ m.content }}", "{{ m.content[:9] }}"), "question_changed"),
        ("{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML,
         "template_refuses"),
    ],
)  # fmt: skip
def test_a_template_that_loses_part_of_the_question_is_refused(model, template, rule):
    asked = [{"role": "system", "content": "Be brief, please"}, *ASKED]
    found = rendering(model(template)).render(asked, None, "4")
    assert isinstance(found, Unscorable) and found.rule == rule and found.detail
    trimmed = rendering(model(CHATML.replace("{{ m.content }}", "{{ m.content | trim }}")))
    assert isinstance(trimmed.render([{"role": "user", "content": " 2 + 2? \n"}], None, "4"), Rendered)


def test_characters_without_a_token_are_refused(model):
    folder = Path(model())
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    from tokenizers import normalizers

    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("é", "")
    tokenizer.save_pretrained(folder)
    found = rendering(str(folder)).render(ASKED, None, "café et thé")
    assert isinstance(found, Unscorable) and (found.rule, found.value) == ("tokens_lost", 2) and "'éé'" in found.detail
    assert isinstance(rendering(str(folder)).render(ASKED, None, "cafe et the"), Rendered)


def test_an_empty_response_is_no_response(model):
    assert rendering(model()).render(ASKED, " ", None) == Unscorable("empty_response")


def test_a_question_that_stands_in_the_template_too_is_found_where_it_was_asked(model):
    folder = model()
    found = rendering(folder).render([{"role": "user", "content": "AI assistant"}], None, "What?")
    assert isinstance(found, Rendered) and found.question[0] > 15  # not in the default system prompt
    assert decoded(folder, found, found.question) == "AI assistant"


def test_the_version_holds_template_and_limit_but_not_the_endpoint(model):
    folder = model()
    first = rendering(folder).version
    assert rendering(folder, max_tokens=100).version != first == rendering(folder, batch_tokens=5).version
    served = VLLMScorerSettings(name="s", engine="vllm", model="m", tokenizer=folder, base_url="http://a")
    assert Rendering(served).version.startswith("m@folder-")
    assert (rendering(folder).limit, Rendering(served).limit) == (8192, 8191)  # a server writes one token
    assert rendering(folder, max_tokens=9000).limit == 8192
    assert rendering(model(CHATML)).version != first


def test_a_model_without_template_or_without_files_is_an_error_that_says_so(model, tmp_path):
    folder = Path(model())
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ScorerError, match="no chat template: take an instruct model"):
        rendering(str(folder))
    with pytest.raises(ScorerError, match="no such model folder"):
        rendering(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two!  Three", ["One.", "Two!", "Three"]),
        ("1. First, e.g. this\n2. Second", ["1. First, e.g. this", "2. Second"]),
        ("π is 3.14. So?\n\n---\nEnd", ["π is 3.14.", "So?\n\n---", "End"]),
        ("***\nStart", ["***\nStart"]),
        ("是的。好！", ["是的。", "好！"]),
        ("  ", []),
        ("...", []),
    ],
)
def test_sentences(text, expected):
    spans = sentence_spans(text)
    assert [text[start:end] for start, end in spans] == expected


def test_a_part_without_a_letter_or_digit_has_no_sentence_and_is_scored_all_the_same(model):
    found = rendering(model()).render(ASKED, "...", "It is 4.")
    assert isinstance(found, Rendered)
    assert [(one.part, one.start, one.end) for one in found.sentences] == [("answer", 0, 8)]
