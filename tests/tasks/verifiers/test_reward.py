"""Proves the reward model on a real, tiny, randomly initialised Llama classifier with a real tokenizer and
chat template."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from tasks.verifiers.reward import RewardModel, RewardModelError
from tasks.verifiers.verdict import Item

TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {{ eos_token }}{% endfor %}"
ANSWERS = ["because of gravity", "no", "apples fall because the earth pulls them " * 5, "why not"]


def make_model(folder: Path, labels: list[str], *, template: str | None = TEMPLATE, pad: bool = True) -> str:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    tokenizer.train_from_iterator(
        [*ANSWERS, "user : assistant"], trainers.BpeTrainer(vocab_size=200, special_tokens=special)
    )
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
    with RewardModel(model, threshold=0.0, device="cpu") as reward:
        [judgement] = reward.judge(items(ANSWERS[:1]))
    row = raw_logits(model, ANSWERS[0])
    assert judgement.score == pytest.approx(min(1, max(0, (row[1] + row[2] + row[4]) / 12)), abs=2e-4)
    assert judgement.evidence["helpfulness"] == pytest.approx(row[1], abs=1e-3)


def test_unusable_models_say_why(tmp_path: Path) -> None:
    with pytest.raises(
        RewardModelError, match="labels positive, negative; wanted one output, or labels named coherence"
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
