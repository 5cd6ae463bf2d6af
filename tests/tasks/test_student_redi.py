"""Proves that REDI's loss and gradients are those of the formula, computed by hand in NumPy, and that its training
resumes, accumulates, adapts (LoRA) and reports; and that DPO trains on the same pairs.

Not covered: GPUs, ZeRO.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer

from tasks.student import ADAPTER, MODEL, SHIPPED, Lora, TrainingFailed, TrainSettings, train_student
from tasks.student_examples import IGNORED
from tasks.student_pairs import encode_pairs
from tasks.student_program import newest_complete_checkpoint
from tasks.student_redi import PairCollator, redi_loss
from tests.tasks.tiny_student import TEMPLATE, make_student, thought, train_and_kill

SETTINGS = TrainSettings(
    model="tiny", method="redi", max_length=96, learning_rate=1e-3, epochs=16, batch_size=4, warmup_ratio=0.1,
    scheduler="linear", save_steps=3,
)  # fmt: skip


def reference(logits: np.ndarray, labels: np.ndarray, alpha: float) -> tuple[float, np.ndarray]:
    """The objective and its gradient with respect to the logits, in float64, one token after the other.

    d(−log softmax(z)[y]) / dz = softmax(z) − onehot(y).
    """
    pairs = len(logits) // 2
    loss, gradient = 0.0, np.zeros(logits.shape)
    for row in range(2 * pairs):
        learnt = [place for place in range(1, labels.shape[1]) if labels[row, place] != IGNORED]
        weight = (1.0 if row < pairs else -alpha) / (len(learnt) * pairs)
        for place in learnt:
            scores = np.exp(logits[row, place - 1] - logits[row, place - 1].max())
            probabilities = scores / scores.sum()
            loss += weight * -math.log(probabilities[labels[row, place]])
            probabilities[labels[row, place]] -= 1
            gradient[row, place - 1] += weight * probabilities
    return loss, gradient


def random_batch() -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of 3 pairs with prompts and completions of different lengths, padded."""
    generator = np.random.default_rng(17)
    logits, labels = generator.normal(scale=3, size=(6, 9, 11)), np.full((6, 9), IGNORED)
    for row, (start, end) in enumerate([(1, 9), (3, 4), (2, 7), (4, 9), (1, 3), (5, 6)]):
        labels[row, start:end] = generator.integers(0, 11, end - start)
    return logits, labels


@pytest.mark.parametrize("alpha", [0.0, 0.8, 1.0])
def test_loss_and_gradient_are_those_of_the_formula(alpha: float) -> None:
    logits, labels = random_batch()
    expected, gradient = reference(logits, labels, alpha)
    given = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
    found = redi_loss(given, torch.tensor(labels), alpha)
    found.loss.backward()
    assert found.loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert given.grad is not None
    np.testing.assert_allclose(given.grad.numpy(), gradient, rtol=1e-4, atol=1e-7)


def test_the_reference_gradient_is_the_slope_of_the_reference_loss() -> None:
    logits, labels = random_batch()
    _, gradient = reference(logits, labels, 0.8)
    for place in [(0, 0, 3), (1, 2, 0), (3, 4, 10), (5, 4, 1), (5, 8, 2)]:
        up, down = logits.copy(), logits.copy()
        up[place] += 1e-5
        down[place] -= 1e-5
        slope = (reference(up, labels, 0.8)[0] - reference(down, labels, 0.8)[0]) / 2e-5
        assert slope == pytest.approx(gradient[place], rel=1e-5, abs=1e-9)


def test_the_sides_count_by_their_mean_per_token() -> None:
    """A uniform model over 4 tokens gives log(1/4) a token whatever the lengths, and 1 − α of that as the loss."""
    labels = torch.full((2, 6), IGNORED)
    labels[0, 1:3], labels[1, 1:6] = 2, 3
    found = redi_loss(torch.zeros(2, 6, 4), labels, 0.8)
    assert found.chosen.item() == pytest.approx(-math.log(4)) == found.rejected.item()
    assert found.loss.item() == pytest.approx(0.2 * math.log(4))


def pair(number: int, **sides: str) -> dict[str, Any]:
    texts = {"chosen": thought(number), "rejected": f"<think>a guess</think>{number + 3}"} | sides
    return {
        "pair_id": f"c{number}:r{number}",
        "prompt": [{"role": "user", "content": f"What is {number} + 1?"}],
        **{side: [{"role": "assistant", "content": text}] for side, text in texts.items()},
    }


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 pairs and one whose rejected side is overlong; 3 validation pairs."""
    folder = tmp_path_factory.mktemp("preference")
    (folder / "data").mkdir()
    train = [pair(number) for number in range(10, 26)]
    train.insert(5, pair(99, rejected="on and on " * 60))
    for name, rows in (("train", train), ("validation", [pair(number) for number in range(40, 43)])):
        pq.write_table(pa.Table.from_pylist(rows), folder / "data" / f"{name}-00000-of-00001.parquet")
    return folder


@pytest.fixture(scope="module")
def unbroken(dataset: Path, model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return train_student(SETTINGS, dataset, tmp_path_factory.mktemp("unbroken"), model_path=str(model_path))


def test_padding_changes_nothing(model_path: Path) -> None:
    """Each pair alone, without padding, and all of them in one padded batch: the same losses."""
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    model = AutoModelForCausalLM.from_pretrained(model_path).eval()

    rows = [pair(1), pair(22, chosen="<think>long and longer and longer still</think>23"), pair(3, rejected="4")]
    encoded = encode_pairs(datasets.Dataset.from_list(rows), tokenizer, 200, "drop").examples
    collate = PairCollator(tokenizer)

    def loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return redi_loss(logits, batch["labels"], 0.8).loss

    alone = torch.stack([loss(collate([one])) for one in encoded])
    assert loss(collate(list(encoded))).item() == pytest.approx(alone.mean().item(), rel=1e-5)


def test_the_first_loss_is_the_formula_on_the_models_own_logits(
    dataset: Path, model_path: Path, tmp_path: Path
) -> None:
    """All pairs in one batch, so that the order doesn't matter: the trainer's loss before its first update."""
    settings = dataclasses.replace(SETTINGS, batch_size=16, epochs=1, save_steps=None)
    whole = train_student(settings, dataset, tmp_path / "one", model_path=str(model_path))
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    model = AutoModelForCausalLM.from_pretrained(model_path).eval()

    rows = pq.read_table(dataset / "data" / "train-00000-of-00001.parquet").to_pylist()
    batch = PairCollator(tokenizer)(
        list(encode_pairs(datasets.Dataset.from_list(rows), tokenizer, 96, "drop").examples)
    )
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected, _ = reference(logits.double().numpy(), batch["labels"].numpy(), 0.8)
    assert whole.steps == 1 and whole.loss_curve[0][1] == pytest.approx(expected, rel=1e-4)
    split = dataclasses.replace(settings, batch_size=4, gradient_accumulation=4)
    halves = train_student(split, dataset, tmp_path / "four", model_path=str(model_path))
    assert halves.loss_curve[0][1] == pytest.approx(expected, rel=1e-4) and halves.global_batch == 16
    assert dict(halves.curves["grad_norm"])[1] == pytest.approx(dict(whole.curves["grad_norm"])[1], rel=1e-4)


def test_tokens_are_counted_without_padding(unbroken: Any, dataset: Path, model_path: Path) -> None:
    rows = pq.read_table(dataset / "data" / "train-00000-of-00001.parquet").to_pylist()
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    found = encode_pairs(datasets.Dataset.from_list(rows), tokenizer, 96, "drop").examples
    sides = [(row[f"{side}_input_ids"], row[f"{side}_labels"]) for row in found for side in ("chosen", "rejected")]
    assert unbroken.tokens == 16 * sum(len(ids) for ids, _ in sides)
    assert unbroken.loss_tokens == 16 * sum(label != IGNORED for _, labels in sides for label in labels)


def test_pairs_are_counted_and_both_sides_followed(unbroken: Any) -> None:
    assert (unbroken.examples_in, unbroken.examples, unbroken.overlong_ids) == (17, 16, ("c99:r99",))
    assert (unbroken.method, unbroken.steps, unbroken.eval_examples) == ("redi", 64, 3)
    chosen, rejected = (dict(unbroken.curves[f"logps_{side}"]) for side in ("chosen", "rejected"))
    for step, loss in unbroken.loss_curve:
        assert loss == pytest.approx(-chosen[step] + 0.8 * rejected[step], rel=1e-4)
    assert chosen[64] - rejected[64] > chosen[1] - rejected[1]
    rates = [rate for _, rate in unbroken.curves["learning_rate"]]  # 10 % of 64 steps up, then down to 0
    assert rates[:7] == pytest.approx([1e-3 * step / 7 for step in range(7)])
    assert rates[7:] == pytest.approx([1e-3 * (64 - step) / 57 for step in range(7, 64)])


def test_killed_in_the_middle_it_resumes_to_the_same_loss(
    unbroken: Any, dataset: Path, model_path: Path, tmp_path: Path
) -> None:
    """Fault: SIGKILL after the first checkpoint. Weights, optimizer, rate and order of the data go on as they were."""
    compare_with_killed(SETTINGS, unbroken, dataset, model_path, tmp_path / "killed")


def test_killed_with_an_adapter_it_resumes_too_and_only_the_adapted_weights_change(
    dataset: Path, model_path: Path, tmp_path: Path
) -> None:
    settings = dataclasses.replace(SETTINGS, lora=Lora(rank=4, alpha=8))
    whole = train_student(settings, dataset, tmp_path / "whole", model_path=str(model_path))
    compare_with_killed(settings, whole, dataset, model_path, tmp_path / "killed")
    before, after = weights(model_path), weights(tmp_path / "killed" / MODEL)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "proj" in name}


def compare_with_killed(settings: TrainSettings, whole: Any, dataset: Path, model_path: Path, out: Path) -> None:
    train_and_kill(dataclasses.asdict(settings), dataset, out, model_path, after=4)
    last = newest_complete_checkpoint(out)
    assert last is not None
    result = train_student(settings, dataset, out, model_path=str(model_path))
    assert result.resumed_from == int(last.name.removeprefix("checkpoint-")) >= 3
    assert [step for step, _ in result.loss_curve] == [step for step, _ in whole.loss_curve]
    assert [loss for _, loss in result.loss_curve] == pytest.approx(
        [loss for _, loss in whole.loss_curve], rel=1e-4, abs=1e-5
    )
    assert result.eval_loss == pytest.approx(whole.eval_loss, rel=1e-4)
    assert (result.tokens, result.loss_tokens) == (whole.tokens, whole.loss_tokens)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(folder).state_dict())


@pytest.mark.parametrize(("method", "likelihood"), [("redi", "logps_chosen"), ("dpo", "logps/chosen")])
def test_an_adapter_that_is_kept_is_gone_on_with(
    method: str, likelihood: str, dataset: Path, model_path: Path, tmp_path: Path
) -> None:
    """The second training begins where the first one ended; DPO's reference is that place, not the bare weights."""
    kept = dataclasses.replace(
        SETTINGS, method=method, epochs=1, batch_size=16, learning_rate=1e-2, warmup_ratio=0, save_steps=None,
        lora=Lora(rank=4, alpha=8, merge=False),
    )  # fmt: skip
    adapter = tmp_path / "first" / ADAPTER
    first = train_student(kept, dataset, tmp_path / "first", model_path=str(model_path))
    second = train_student(kept, dataset, tmp_path / "second", model_path=str(model_path), adapter=str(adapter))
    assert not (tmp_path / "first" / MODEL).exists()
    assert {file.suffix for file in adapter.iterdir()} <= {".safetensors", ".json", ".jinja", ".md"}
    (_, before), (_, after) = first.curves[likelihood][0], second.curves[likelihood][0]
    assert after != pytest.approx(before, rel=1e-4)
    if method == "dpo":
        assert second.train_loss == pytest.approx(math.log(2), rel=1e-5)


def test_dpo_starts_at_log_2_and_learns_to_prefer(dataset: Path, model_path: Path, tmp_path: Path) -> None:
    """Before the first update the student is its own reference: −log σ(0) = log 2."""
    settings = dataclasses.replace(SETTINGS, method="dpo", epochs=4)
    result = train_student(settings, dataset, tmp_path / "dpo", model_path=str(model_path))
    assert (result.examples_in, result.examples) == (17, 16)
    assert result.loss_curve[0][1] == pytest.approx(math.log(2), rel=1e-5)
    assert result.train_loss < 0.9 * math.log(2)
    assert result.curves["rewards/accuracies"][-1][1] > 0.9 and result.loss_tokens > 0


def test_a_template_that_drops_thinking_is_refused_and_says_what_it_saw(
    dataset: Path, model_path: Path, tmp_path: Path
) -> None:
    template = tmp_path / "drops.jinja"
    template.write_text(TEMPLATE.replace("m.content", "m.content.split('</think>')[-1]"))
    settings = dataclasses.replace(SETTINGS, chat_template=str(template))
    with pytest.raises(TrainingFailed, match="keeps the thinking part of response c10:r10 out of the loss") as fault:
        train_student(settings, dataset, tmp_path / "student", model_path=str(model_path))
    assert "which begins '11<|end|>' while the answer begins '<think>10 and one more</think>11'" in str(fault.value)


def test_by_accelerate_launch_it_is_the_same_training_and_tensorboard_sees_it(
    unbroken: Any, dataset: Path, model_path: Path, tmp_path: Path
) -> None:
    settings = dataclasses.replace(SETTINGS, accelerate="single", report_to=("tensorboard",))
    result = train_student(settings, dataset, tmp_path / "launched", model_path=str(model_path))
    assert [loss for _, loss in result.loss_curve] == pytest.approx([loss for _, loss in unbroken.loss_curve], rel=1e-4)
    events = EventAccumulator(str(tmp_path / "launched" / "runs"))
    events.Reload()
    seen = [event.value for event in events.Scalars("train/loss")]
    assert seen[:64] == pytest.approx([loss for _, loss in result.loss_curve], rel=1e-4)


def test_split_over_two_processes_by_fsdp_it_is_the_same_training(
    dataset: Path, model_path: Path, tmp_path: Path
) -> None:
    """The shipped configuration, on two CPU processes instead of GPUs, killed at no point; also of a model that is kept
    on the way, for which both gather their halves."""
    own = tmp_path / "fsdp_cpu.yaml"
    own.write_text((SHIPPED / "fsdp.yaml").read_text().replace("use_cpu: false", "use_cpu: true"))
    few = dataclasses.replace(SETTINGS, epochs=2, save_steps=None, keep_checkpoints=1)
    alone = dataclasses.replace(few, batch_size=8)
    split = dataclasses.replace(few, accelerate=str(own), processes=2)
    one, two = (
        train_student(settings, dataset, tmp_path / name, model_path=str(model_path))
        for name, settings in (("one", alone), ("two", split))
    )
    assert two.global_batch == one.global_batch == 8 and len(two.loss_curve) == 4
    assert [loss for _, loss in two.loss_curve] == pytest.approx([loss for _, loss in one.loss_curve], rel=1e-4)
    assert (two.tokens, two.loss_tokens) == (one.tokens, one.loss_tokens)
    for model in (MODEL, "checkpoints/step-00000002"):
        first, second = (weights(tmp_path / name / model) for name in ("one", "two"))
        assert first.keys() == second.keys()
        assert all(torch.allclose(first[name], second[name], atol=1e-4) for name in first)


def test_a_reporter_that_is_not_installed_is_named(dataset: Path, model_path: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, report_to=("swanlab",))
    with pytest.raises(TrainingFailed, match=r"report_to names swanlab, installed here: .*tensorboard"):
        train_student(settings, dataset, tmp_path / "student", model_path=str(model_path))


def test_truncated_pairs_without_anything_to_learn_are_named(model_path: Path) -> None:

    tokenizer = AutoTokenizer.from_pretrained(model_path)
    rows = [pair(1), pair(2, rejected="on and on " * 20), pair(3)]
    rows[2]["prompt"][0]["content"] = "on and on " * 60
    found = encode_pairs(datasets.Dataset.from_list(rows), tokenizer, 50, "truncate")
    assert (found.examples_in, len(found.examples), found.overlong_ids, found.lost_ids) == (
        3, 2, ["c2:r2", "c3:r3"], ["c3:r3"],
    )  # fmt: skip
    lengths = [len(row[f"{side}_input_ids"]) for row, side in itertools.product(found.examples, ("chosen", "rejected"))]
    assert max(lengths) == 50
