"""A tiny real model trained through the real subprocess: loss, counts, refusals, kills and resume."""

import dataclasses
import math
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from trl import pack_dataset
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from tasks.student import Lora, TrainingFailed, TrainResult, TrainSettings, read_result, train_student
from tasks.student_examples import IGNORED, UnusableData, encode, encode_split
from tasks.student_program import newest_complete_checkpoint, steps_to_keep
from tasks.student_sft import check_packed_attention, check_packed_tokens
from tests.tasks.tiny_student import TEMPLATE, make_student, thought, train_and_kill

DROPS_THINKING = TEMPLATE.replace("m.content", "m.content.split('</think>')[-1]")
OPENS_THINKING = TEMPLATE.replace(
    "{% if add_generation_prompt %}<|assistant|>", "{% if add_generation_prompt %}<|assistant|><think>"
)
SETTINGS = TrainSettings(
    model="tiny", max_length=64, learning_rate=3e-3, epochs=10, batch_size=8, save_steps=5, overlong="drop"
)
Unbroken = tuple[TrainResult, list[tuple[int, int, float]]]
STEPS = 80  # 64 examples of at most 64 tokens, batches of 8, 10 epochs


def example(number: int, answer: str) -> dict[str, object]:
    question = f"What is {number} + 1?"
    return {
        "question_id": f"q{number}",
        "response_id": f"r{number}",
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
    }


@contextmanager
def using(tokenizer: PreTrainedTokenizerBase, template: str) -> Iterator[None]:
    tokenizer.chat_template = template
    try:
        yield
    finally:
        tokenizer.chat_template = TEMPLATE


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 short training examples, 2 overlong ones between them, 8 validation examples of which 1 is overlong."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "data").mkdir()
    numbers = random.Random(17).sample(range(10, 99), 74)
    train = [example(number, thought(number)) for number in numbers[:66]]
    for row in (3, 40):
        train[row] = example(1000 + row, "<think>" + "and one " * 60 + "</think>1")
    check = [example(number, thought(number)) for number in numbers[66:]]
    check[0] = example(2000, "word " * 80)
    pq.write_table(pa.Table.from_pylist(train), folder / "data" / "train-00000-of-00001.parquet")
    pq.write_table(pa.Table.from_pylist(check), folder / "data" / "validation-00000-of-00001.parquet")
    return folder


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tokenizer(model_path: Path) -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model_path)
    return loaded


@pytest.fixture(scope="module")
def unbroken(dataset: Path, model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    """An uninterrupted training and the progress that it reported."""
    progress: list[tuple[int, int, float]] = []

    def note(step: int, total: int, loss: float) -> None:
        progress.append((step, total, loss))

    out = tmp_path_factory.mktemp("unbroken")
    return train_student(SETTINGS, dataset, out, model_path=str(model_path), on_progress=note), progress


def test_loss_falls_and_every_step_is_reported(unbroken: Unbroken) -> None:
    result, progress = unbroken
    assert result.steps == STEPS
    assert [step for step, _ in result.loss_curve] == list(range(1, STEPS + 1))
    assert result.train_loss == result.loss_curve[-1][1] < 0.5 * result.loss_curve[0][1]
    assert result.eval_loss is not None and result.eval_loss < result.loss_curve[0][1]
    assert math.isnan(progress[0][2])
    assert [(step, total) for step, total, _ in progress] == [(step, STEPS) for step in range(STEPS + 1)]


def test_every_example_is_counted(unbroken: Unbroken) -> None:
    result, _ = unbroken
    assert (result.examples_in, result.examples, result.overlong) == (66, 64, 2)
    assert result.overlong_ids == ("r1003", "r1040")
    assert (result.eval_examples, result.eval_overlong) == (7, 1)


def test_tokens_are_counted_exactly(unbroken: Unbroken, dataset: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    result, _ = unbroken
    rows = pq.read_table(dataset / "data" / "train-00000-of-00001.parquet").to_pylist()
    encoded = [encode(row["messages"], row["response_id"], tokenizer) for row in rows]
    kept = [one for one in encoded if len(one["input_ids"]) <= SETTINGS.max_length]
    assert result.tokens == 10 * sum(len(one["input_ids"]) for one in kept)
    assert result.loss_tokens == 10 * sum(label != IGNORED for one in kept for label in one["labels"])


def test_the_student_loads_with_its_template_and_brings_no_pickle(unbroken: Unbroken) -> None:
    result, _ = unbroken
    AutoModelForCausalLM.from_pretrained(result.model)
    assert AutoTokenizer.from_pretrained(result.model).chat_template == TEMPLATE
    assert {file.suffix for file in result.model.iterdir()} <= {".safetensors", ".json", ".jinja", ".md"}
    assert not list(result.model.parent.glob("checkpoint-*"))


def test_a_finished_folder_returns_at_once(
    unbroken: Unbroken, dataset: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = unbroken

    def no_process(*arguments: object, **options: object) -> None:
        raise AssertionError("a finished training was started again")

    monkeypatch.setattr(subprocess, "Popen", no_process)
    assert train_student(SETTINGS, dataset, result.model.parent, model_path=str(model_path)) == result
    with pytest.raises(AssertionError):  # another setting is another training
        other = dataclasses.replace(SETTINGS, seed=18)
        shutil.copytree(result.model.parent, result.model.parent.with_name("copy"))
        train_student(other, dataset, result.model.parent.with_name("copy"), model_path=str(model_path))


def test_killed_with_its_parent_it_resumes_to_the_same_curve(
    unbroken: Unbroken, dataset: Path, model_path: Path, tmp_path: Path
) -> None:
    """Fault: SIGKILL of the parent in the middle. No trainer stays; the next call goes on from a checkpoint."""
    out = tmp_path / "student"
    train_and_kill(dataclasses.asdict(SETTINGS), dataset, out, model_path, after=6)  # a checkpoint is there
    with pytest.raises(FileNotFoundError):
        read_result(out)

    last = newest_complete_checkpoint(out)
    assert last is not None
    half_written = out / "checkpoint-79"
    half_written.mkdir()
    (half_written / "trainer_state.json").write_text('{"global_step": 79, "log_hi')
    result = train_student(SETTINGS, dataset, out, model_path=str(model_path))
    whole, _ = unbroken
    assert result.resumed_from == int(last.name.removeprefix("checkpoint-"))
    assert (result.steps, result.tokens, result.loss_tokens) == (whole.steps, whole.tokens, whole.loss_tokens)
    assert [step for step, _ in result.loss_curve] == [step for step, _ in whole.loss_curve]
    assert [loss for _, loss in result.loss_curve] == pytest.approx([loss for _, loss in whole.loss_curve], rel=1e-4)
    assert result.eval_loss == pytest.approx(whole.eval_loss, rel=1e-4)


def test_models_from_on_the_way_are_kept_also_over_a_kill(
    unbroken: Unbroken, dataset: Path, model_path: Path, tmp_path: Path
) -> None:
    """Fault: SIGKILL between the two. What was kept before it stays, and the way to the end is the same."""
    settings, out = dataclasses.replace(SETTINGS, keep_checkpoints=3), tmp_path / "student"
    train_and_kill(dataclasses.asdict(settings), dataset, out, model_path, after=26)
    kept = out / "checkpoints"
    before = {one: (one / "model.safetensors").stat().st_mtime_ns for one in kept.glob("step-*")}
    assert kept / "step-00000020" in before
    result = train_student(settings, dataset, out, model_path=str(model_path))
    assert result.train_loss == pytest.approx(unbroken[0].train_loss, rel=1e-4)
    assert sorted(one.name for one in kept.iterdir()) == [f"step-000000{step}" for step in (20, 40, 60)]
    assert {one: (one / "model.safetensors").stat().st_mtime_ns for one in before} == before
    losses = [mean_loss(one, dataset) for one in (model_path, *sorted(kept.iterdir()), result.model)]
    assert losses == sorted(losses, reverse=True) and len(set(losses)) == 5
    assert not list(kept.rglob("*.bin")) and not list(out.glob("checkpoint-*"))
    train_student(dataclasses.replace(SETTINGS, epochs=1), dataset, out, model_path=str(model_path))
    assert not kept.exists()


def mean_loss(model_path: Path, dataset: Path) -> float:
    """Of a model on the first training examples, in nats a token of the answers."""
    tokenizer, model = AutoTokenizer.from_pretrained(model_path), AutoModelForCausalLM.from_pretrained(model_path)
    rows = pq.read_table(dataset / "data" / "train-00000-of-00001.parquet").slice(0, 3).to_pylist()
    encoded = [encode(row["messages"], row["response_id"], tokenizer) for row in rows]
    with torch.no_grad():
        losses = [
            model(input_ids=torch.tensor([one["input_ids"]]), labels=torch.tensor([one["labels"]])).loss
            for one in encoded
        ]
    return float(sum(losses) / len(losses))


@pytest.mark.parametrize(("total", "number", "steps"), [(80, 3, [20, 40, 60]), (3, 5, [1, 2]), (1, 2, []), (9, 0, [])])
def test_kept_steps_are_spread_evenly_and_the_last_is_none(total: int, number: int, steps: list[int]) -> None:
    assert steps_to_keep(total, number) == steps


def test_adapters_that_are_kept_become_whole_models(dataset: Path, model_path: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, epochs=2, keep_checkpoints=1, lora=Lora(rank=4), learning_rate=1e-2)
    result = train_student(settings, dataset, tmp_path / "student", model_path=str(model_path))
    [kept] = (tmp_path / "student" / "checkpoints").iterdir()
    assert not (kept / "adapter_config.json").exists()
    start, between, end = (mean_loss(one, dataset) for one in (model_path, kept, result.model))
    assert start > between > end


def test_without_shuffling_the_examples_come_in_the_order_of_the_data_set(
    dataset: Path, model_path: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """At a rate of nearly nothing a step's loss is that of its own examples under the untrained model."""
    settings = dataclasses.replace(SETTINGS, epochs=1, learning_rate=1e-12, shuffle=False)
    result = train_student(settings, dataset, tmp_path / "student", model_path=str(model_path))
    model = AutoModelForCausalLM.from_pretrained(model_path)
    split = datasets.load_dataset(str(dataset), split="train", cache_dir=str(tmp_path / "cache"))
    examples = list(encode_split(split, tokenizer, SETTINGS.max_length, "drop").examples)
    expected = []
    for start in range(0, len(examples), SETTINGS.batch_size):
        total, number = 0.0, 0
        for one in examples[start : start + SETTINGS.batch_size]:
            learnt = sum(label != IGNORED for label in one["labels"])
            with torch.no_grad():
                ids, labels = torch.tensor([one["input_ids"]]), torch.tensor([one["labels"]])
                total += float(model(input_ids=ids, labels=labels).loss) * learnt
            number += learnt
        expected.append(total / number)
    assert [loss for _, loss in result.loss_curve] == pytest.approx(expected, rel=1e-4)
    assert len({round(loss, 4) for loss in expected}) == len(expected)


def test_a_template_that_drops_thinking_is_refused(dataset: Path, model_path: Path, tmp_path: Path) -> None:
    template = tmp_path / "drops.jinja"
    template.write_text(DROPS_THINKING)
    settings = dataclasses.replace(SETTINGS, chat_template=str(template))
    with pytest.raises(TrainingFailed, match=f"chat template of {model_path} keeps the thinking part") as fault:
        train_student(settings, dataset, tmp_path / "student", model_path=str(model_path))
    assert "Traceback" not in str(fault.value)
    assert fault.value.log.read_text() != ""


def test_loss_is_on_the_last_answer_only(tokenizer: PreTrainedTokenizerBase) -> None:
    turns = [
        ("user", "What is 1 + 1?"),
        ("assistant", "2"),
        ("user", "And 2 + 1?"),
        ("assistant", thought(2)),
    ]
    encoded = encode([{"role": role, "content": content} for role, content in turns], "r", tokenizer)
    learnt = [label for label in encoded["labels"] if label != IGNORED]
    assert tokenizer.decode(learnt) == thought(2) + "<|end|>"
    assert not encoded["prompt_mismatch"]


def test_a_think_tag_in_the_generation_prompt_is_no_loss(tokenizer: PreTrainedTokenizerBase) -> None:
    messages = [{"role": "user", "content": "What is 2 + 1?"}, {"role": "assistant", "content": thought(2)}]
    with using(tokenizer, OPENS_THINKING):
        encoded = encode(messages, "r", tokenizer)
    learnt = [label for label in encoded["labels"] if label != IGNORED]
    assert str(tokenizer.decode(learnt)).endswith("2 and one more</think>3<|end|>")


def test_a_prompt_that_inference_renders_differently_is_counted(tokenizer: PreTrainedTokenizerBase) -> None:
    split = datasets.Dataset.from_list([example(1, "2"), example(2, thought(2))])
    with using(tokenizer, OPENS_THINKING):
        assert encode_split(split, tokenizer, 64, "drop").prompt_mismatches == 1


def test_truncation_is_counted_and_drops_what_has_nothing_to_learn(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    long_answer, long_question = example(1, "one more " * 60), example(2, "3")
    long_question["messages"][0]["content"] = "one more " * 60  # type: ignore[index]
    split = datasets.Dataset.from_list([example(0, "1"), long_answer, long_question])
    encoded = encode_split(split, tokenizer, 32, "truncate")
    assert encoded.overlong_ids == ["r1", "r2"]
    assert [len(ids) <= 32 for ids in encoded.examples["input_ids"]] == [True, True]


@pytest.mark.parametrize("messages", [[("user", "alone")], [("user", "hi"), ("user", "again")]])
def test_a_conversation_without_an_answer_is_refused(
    messages: list[tuple[str, str]], tokenizer: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(UnusableData, match="response r9: the last of its messages"):
        encode([{"role": role, "content": content} for role, content in messages], "r9", tokenizer)


def test_packed_examples_do_not_see_each_other(model_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """TRL's packing tells documents apart by position only; the attention used without flash-attn must heed
    that.
    """
    model = AutoModelForCausalLM.from_pretrained(model_path).eval()
    ids = [tokenizer(text)["input_ids"] for text in ("What is 2 + 1?", "7 and one more is what?")]
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    packed = collate([{"input_ids": ids[0] + ids[1], "seq_lengths": [len(one) for one in ids]}])
    packed.pop("labels")
    with torch.no_grad():
        together = model(**packed, use_cache=False).logits[0]
        alone = torch.cat([model(input_ids=torch.tensor([one])).logits[0] for one in ids])
    assert torch.allclose(together, alone, atol=1e-5)


def test_a_checkpoint_counts_only_when_whole(tmp_path: Path) -> None:
    for step, state in ((5, '{"global_step": 5}'), (10, '{"global_step": 5}'), (15, "{"), (20, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    (tmp_path / "checkpoint-notes").mkdir()
    assert newest_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-5"
    (tmp_path / "checkpoint-5" / "optimizer.pt").write_bytes(b"PK torn")
    assert newest_complete_checkpoint(tmp_path) is None


@pytest.mark.parametrize(
    "setting",
    [{"overlong": "cut"}, {"dtype": "fp8"}, {"warmup_ratio": 5}, {"keep_checkpoints": -1},
     {"packing": True, "shuffle": False}],
)  # fmt: skip
def test_a_wrong_setting_is_answered_with_the_valid_ones(setting: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        TrainSettings(model="tiny", **setting)  # type: ignore[arg-type]


def test_a_folder_without_training_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="export a data set there first"):
        train_student(SETTINGS, tmp_path, tmp_path / "student", model_path="unused")


def test_attention_that_does_not_heed_positions_is_refused(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault: a model that takes its positions from the row, not from the examples packed into it."""
    model = AutoModelForCausalLM.from_pretrained(model_path)
    check_packed_attention(model, list(range(3, 30)))
    blind = model.forward

    def forward(**inputs: object) -> object:
        return blind(**{name: value for name, value in inputs.items() if name in ("input_ids", "use_cache")})

    monkeypatch.setattr(model, "forward", forward)
    with pytest.raises(UnusableData, match=r"packed examples see each other.*set packing: false"):
        check_packed_attention(model, list(range(3, 30)))


def test_packing_that_cuts_is_refused() -> None:
    """TRL's bfd cuts what is over the length of a row, and says nothing."""
    rows = datasets.Dataset.from_list([{"input_ids": list(range(n)), "labels": list(range(n))} for n in (5, 9, 12)])
    check_packed_tokens(rows, pack_dataset(rows, 12, "bfd"))
    with pytest.raises(UnusableData, match="packing left 23 of 26 tokens, expected all"):
        check_packed_tokens(rows, pack_dataset(rows, 9, "bfd"))
