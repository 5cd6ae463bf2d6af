"""Proves the reward model on a real, tiny, randomly initialised Llama classifier with a real tokenizer and
chat template: in this process, and behind a server on loopback that answers as vLLM's /classify does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from aiohttp import web
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from tasks.verifiers import instructions, judge, quantity, reward_rule
from tasks.verifiers.bench import Bench, static_versions
from tasks.verifiers.reward import RewardModel, RewardModelError
from tasks.verifiers.reward_endpoint import RewardEndpoint
from tasks.verifiers.reward_rule import RewardRule, RewardRules
from tasks.verifiers.settings import VerifySettings
from tasks.verifiers.verdict import Item, Message
from tests.tasks.verifiers import loopback

TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {{ eos_token }}{% endfor %}"
ANSWERS = ["because of gravity", "no", "apples fall because the earth pulls them " * 5, "why not"]


def make_model(folder: Path, labels: list[str], *, template: str | None = TEMPLATE, pad: bool = True) -> str:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    tokenizer.train_from_iterator(
        [*ANSWERS, "user : assistant"], trainers.BpeTrainer(vocab_size=200, special_tokens=special)
    )
    # Adds <s> to whatever it is given, as Llama's does: a text that has gone through the template has one already.
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    if pad:
        fast.pad_token = "<pad>"
    fast.chat_template = template
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        id2label=dict(enumerate(labels)),
        label2id={label: column for column, label in enumerate(labels)},
        initializer_range=0.5,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


def items(answers: list[str] = ANSWERS) -> list[Item]:
    return [Item(str(n), "other", "why do apples fall", None, answer) for n, answer in enumerate(answers)]


def raw_logits(model: str, answer: str) -> list[float]:
    """The model called by hand: one dialogue, the template's own special tokens, no padding."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    text = f"<s>user : why do apples fall </s>assistant : {answer} </s>"
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    with torch.inference_mode():
        row: list[float] = LlamaForSequenceClassification.from_pretrained(model).float()(ids).logits[0].tolist()
    return row


def test_single_logit_is_the_models_own_through_a_sigmoid(tmp_path: Path) -> None:
    model = make_model(tmp_path, ["reward"])
    with RewardModel(model, batch_size=3, device="cpu") as reward:
        judgements = reward.judge(items())
    wanted = [torch.tensor(raw_logits(model, answer)[0]).sigmoid().item() for answer in ANSWERS]
    assert [judgement.score for judgement in judgements] == pytest.approx(wanted, abs=2e-4)
    assert len(set(wanted)) == len(wanted)
    assert all(judgement.passed == (judgement.score > 0.7) for judgement in judgements if judgement.score is not None)


@pytest.mark.parametrize("pad", [True, False])
def test_batches_do_not_change_scores(tmp_path: Path, pad: bool) -> None:
    model = make_model(tmp_path, ["reward"], pad=pad)
    with (
        RewardModel(model, batch_size=1, device="cpu") as one,
        RewardModel(model, batch_size=4, device="cpu") as four,
    ):
        alone = [judgement.score for judgement in one.judge(items())]
        together = [judgement.score for judgement in four.judge(items())]
        assert one.version == four.version
    assert together == pytest.approx(alone, abs=2e-5)


def test_attributes_are_found_by_label_and_divided_by_12(tmp_path: Path) -> None:
    model = make_model(tmp_path, ["verbosity", "Helpfulness", "Coherence", "complexity", "Correctness"])
    with RewardModel(model, device="cpu") as reward:
        [judgement] = reward.judge(items(ANSWERS[:1]))
    row = raw_logits(model, ANSWERS[0])
    assert judgement.score == pytest.approx(min(1, max(0, (row[1] + row[2] + row[4]) / 12)), abs=2e-4)
    assert judgement.evidence["helpfulness"] == pytest.approx(row[1], abs=1e-3)


def test_the_template_is_applied_once(tmp_path: Path) -> None:
    model = make_model(tmp_path, ["reward"])
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert tokenizer("<s>no")["input_ids"][:2] == [1, 1]  # what a second set of special tokens would look like
    seen: list[list[int]] = []
    with RewardModel(model, device="cpu") as reward:
        reward._load()[0].register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs["input_ids"][0].tolist()), with_kwargs=True
        )
        reward.judge(items(["no"]))
    assert seen == [
        tokenizer("<s>user : why do apples fall </s>assistant : no </s>", add_special_tokens=False).input_ids
    ]
    assert seen[0].count(1) == 1


def test_the_whole_dialogue_is_read(tmp_path: Path) -> None:
    earlier = (Message("system", "be brief"), Message("user", "why not"), Message("assistant", "no"))
    with RewardModel(make_model(tmp_path, ["reward"]), device="cpu") as reward:
        first, second = reward.judge(
            [*items(["no"]), Item("1", "chat", "why do apples fall", None, "no", earlier=earlier)]
        )
    assert first.score != second.score


def test_each_category_may_have_attributes_a_divisor_and_a_threshold_of_its_own(tmp_path: Path) -> None:
    model = make_model(tmp_path, ["Helpfulness", "Coherence", "Correctness"])
    row = raw_logits(model, "no")
    settings = VerifySettings.model_validate(
        {"reward": {"model": model, "threshold": 1.0, "by_category": {
            "chat": {"attributes": ["coherence"], "divide_by": 4, "threshold": 0.0}, "other": {"divide_by": 6}}}}
    )  # fmt: skip
    assert settings.reward is not None
    chat, other, science = (Item("q", name, "why do apples fall", None, "no") for name in ("chat", "other", "science"))
    with RewardModel(model, rules=settings.reward.rules(), device="cpu") as reward:
        scores = [judgement.score for judgement in reward.judge([chat, other, science])]
        passed = [judgement.passed for judgement in reward.judge([chat, other, science])]
    wanted = [row[1] / 4, sum(row) / 6, sum(row) / 12]
    assert scores == pytest.approx([min(1, max(0, value)) for value in wanted], abs=2e-4)
    assert passed == [scores[0] > 0.0, False, False]  # type: ignore[operator]
    assert RewardModel(model, rules=settings.reward.rules()).version != RewardModel(model).version


def test_outputs_may_be_named_by_the_recipe(tmp_path: Path) -> None:
    model = make_model(tmp_path, ["LABEL_0", "LABEL_1", "LABEL_2"])
    with RewardModel(model, outputs=["correctness", "coherence", "helpfulness"], device="cpu") as reward:
        [judgement] = reward.judge(items(["no"]))
    assert judgement.evidence["correctness"] == pytest.approx(raw_logits(model, "no")[0], abs=1e-3)
    with pytest.raises(RewardModelError, match=r"has 3 outputs, verify\.reward\.outputs names 1"):
        RewardModel(model, outputs=["correctness"]).judge(items(["no"]))


def test_a_category_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"found 'chats', expected one of math, code"):
        VerifySettings.model_validate({"reward": {"model": "m", "by_category": {"chats": {"threshold": 0.5}}}})


def test_unusable_models_say_why(tmp_path: Path) -> None:
    with pytest.raises(
        RewardModelError, match="outputs positive, negative; wanted one output, or outputs named coherence"
    ):
        RewardModel(make_model(tmp_path / "labels", ["positive", "negative"])).judge(items())
    with pytest.raises(RewardModelError, match="no chat template"):
        RewardModel(make_model(tmp_path / "template", ["reward"], template=None)).judge(items())


def test_long_dialogues_keep_their_end_and_say_so(tmp_path: Path) -> None:
    with RewardModel(make_model(tmp_path, ["reward"]), device="cpu") as reward:
        [judgement] = reward.judge(items(["apples fall " * 200]))
    assert judgement.evidence["tokens_dropped"] > 0  # type: ignore[operator]


def test_an_empty_answer_is_no_answer(tmp_path: Path) -> None:
    with RewardModel(make_model(tmp_path, ["reward"]), device="cpu") as reward:
        statuses = [judgement.status for judgement in reward.judge(items(["", "no"]))]
    assert statuses[0] == "no_answer" and statuses[1] in ("accepted", "wrong_answer")


def test_the_version_follows_the_weights(tmp_path: Path) -> None:
    model = make_model(tmp_path, ["reward"])
    before = RewardModel(model).version
    assert RewardModel(model).version == before
    weights = next(tmp_path.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert RewardModel(model).version != before


class PoolingServer:
    """POST /classify as vLLM 0.32 answers it: messages go through the model's template, special tokens are added only
    if asked for, the prompt is cut to the model's length on the side asked for, an activation follows unless told off.
    """

    def __init__(self, path: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = LlamaForSequenceClassification.from_pretrained(path).float().eval()
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.failing = 0

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        self.keys.append(request.headers.get("Authorization"))
        if self.failing:
            self.failing -= 1
            return web.Response(status=503, text="busy")
        text = self.tokenizer.apply_chat_template(body["messages"], tokenize=False)
        ids = self.tokenizer(text, add_special_tokens=body.get("add_special_tokens", False))["input_ids"]
        room = self.model.config.max_position_embeddings
        if len(ids) > room and body.get("truncate_prompt_tokens") != -1:
            return web.Response(status=400, text="maximum context length")
        ids = ids[-room:] if body.get("truncation_side") == "left" else ids[:room]
        with torch.inference_mode():
            logits = self.model(torch.tensor([ids])).logits[0]
        if body.get("use_activation") is not False:
            logits = logits.softmax(-1) if len(logits) > 1 else logits.sigmoid()
        entry = {"index": 0, "label": "LABEL_0", "probs": logits.tolist(), "num_classes": len(logits)}
        return web.json_response({"object": "list", "data": [entry], "usage": {"prompt_tokens": len(ids)}})


LONG = "apples fall " * 200


@pytest.mark.parametrize("labels", [["reward"], ["verbosity", "helpfulness", "coherence", "correctness"]])
def test_a_server_gives_the_scores_of_this_process(tmp_path: Path, labels: list[str]) -> None:
    model = make_model(tmp_path, labels)
    server = PoolingServer(model)
    asked = [*items([*ANSWERS, LONG, " "])]
    with RewardModel(model, device="cpu") as reward, loopback.serving({"/classify": server.handle}) as url:
        here = reward.judge(asked)
        there = RewardEndpoint(url + "/v1", model, outputs=labels if len(labels) > 1 else None).judge(asked)
    assert [judgement.status for judgement in there] == [judgement.status for judgement in here]
    assert [judgement.score for judgement in there] == pytest.approx([j.score for j in here], abs=2e-4)
    name = "logit" if len(labels) == 1 else "coherence"
    measured = [judgement.evidence[name] for judgement in there[:4]]
    assert measured == pytest.approx([judgement.evidence[name] for judgement in here[:4]], abs=1e-3)
    assert len(set(measured)) == 4
    assert there[4].evidence["prompt_tokens"] == 128


def test_a_server_that_fails_is_tried_again_then_ours_and_its_key_is_never_shown(tmp_path: Path) -> None:
    server = PoolingServer(make_model(tmp_path, ["reward"]))
    with loopback.serving({"/classify": server.handle}) as url:
        server.failing = 1
        endpoint = RewardEndpoint(url, "m", "sk-secret", attempts=2)
        [again] = endpoint.judge(items(["no"]))
        server.failing = 9
        [ours] = endpoint.judge(items(["no"]))
        [nowhere] = RewardEndpoint(url + "/elsewhere", "m", attempts=1).judge(items(["no"]))
    assert again.status in ("accepted", "wrong_answer")
    assert (ours.status, ours.score) == ("infra_error", None) and "HTTP 503" in str(ours.evidence["reason"])
    assert nowhere.status == "infra_error"
    assert set(server.keys) == {"Bearer sk-secret"}
    assert "sk-secret" not in endpoint.version + str(ours)


@pytest.mark.parametrize(
    "payload", ["", "{}", '{"data": []}', '{"data": [{"probs": []}]}', '{"data": [{"probs": [null]}]}']
)
def test_a_broken_reply_is_an_infra_error(payload: str) -> None:
    async def broken(request: web.Request) -> web.Response:
        return web.Response(text=payload)

    with loopback.serving({"/classify": broken}) as url:
        [judgement] = RewardEndpoint(url, "m", attempts=1).judge(items(["no"]))
    assert judgement.status == "infra_error"


def test_outputs_that_the_recipe_does_not_name_are_an_error(tmp_path: Path) -> None:
    server = PoolingServer(make_model(tmp_path, ["coherence", "correctness", "helpfulness"]))
    with (
        loopback.serving({"/classify": server.handle}) as url,
        pytest.raises(RewardModelError, match=r"has 3 outputs, the recipe names 1 .* verify\.reward\.outputs"),
    ):
        RewardEndpoint(url, "m").judge(items(["no"]))
    with pytest.raises(RewardModelError, match="wanted one output, or outputs named safety"):
        RewardEndpoint("http://a", "m", outputs=["one", "two"], rules=RewardRules(RewardRule(("safety",))))


def test_the_recipe_chooses_between_server_and_this_process(tmp_path: Path) -> None:
    model = make_model(tmp_path, ["reward"])
    server = PoolingServer(model)
    with loopback.serving({"/classify": server.handle}) as url:
        settings = VerifySettings.model_validate({"reward": {"model": model, "base_url": url}})
        with Bench(settings, 1) as bench:
            assert "on a server" in bench.version("reward")
    with Bench(VerifySettings.model_validate({"reward": {"model": model}}), 1) as bench:
        assert "transformers" in bench.version("reward")


@pytest.mark.parametrize(
    ("module", "revision"),
    [
        (instructions, "RULES_REVISION"),
        (quantity, "RULES_REVISION"),
        (judge, "PROMPT_VERSION"),
        (reward_rule, "RULES_REVISION"),
    ],
)
def test_the_fingerprint_of_the_verify_step_follows_each_revision(
    module: Any, revision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a raised revision would change nothing in a workspace that is already verified."""
    settings = VerifySettings.model_validate(
        {"judge": {"base_url": "http://a", "model": "m"}, "reward": {"model": "m", "base_url": "http://a"}}
    )
    before = static_versions(settings)
    monkeypatch.setattr(module, revision, 99)
    assert static_versions(settings) != before
