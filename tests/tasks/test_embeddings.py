"""Proves that a vector is computed once per text and model, that models don't mix, and that a bad vector is seen."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from tasks import embeddings
from tasks.embeddings import NOT_FINITE, ZERO, EmbeddingSettings, embed
from tasks.errors import BadSetting

TEXTS = [
    "How many legs do six spiders have?",
    "What is the capital of Mongolia?",
    "Write a function that reverses a list.",
    "Name three noble gases and their uses.",
]


@pytest.fixture
def house(make_house):
    house = make_house(bits=1, curate={"filters": None, "near_duplicates": {"threshold": 0.9}})
    house.write("sums.jsonl", [{"question": text} for text in TEXTS])
    return house


@pytest.fixture
def asked(monkeypatch):
    """The texts that a model was asked for."""
    found = []
    real = embeddings.embed

    def watched(texts, settings):
        found.extend(texts)
        return real(texts, settings)

    monkeypatch.setattr(embeddings, "embed", watched)
    return found


def spoil(monkeypatch, text, value):
    """The model gives this text, or all with None, a vector of `value`s."""
    real = embeddings.embed

    def spoilt(texts, settings):
        vectors = real(texts, settings).copy()
        for number, one in enumerate(texts):
            if text is None or one == text:
                vectors[number] = value
        return vectors

    monkeypatch.setattr(embeddings, "embed", spoilt)


def test_vectors_are_unit_length_whatever_the_text():
    vectors = embed(["a", "x " * 500_000, "漢字 😀", "\n\t?"], EmbeddingSettings()).astype(np.float32)
    assert vectors.shape == (4, 384) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=2e-3)
    assert embed([], EmbeddingSettings()).shape == (0, 0)


def test_a_text_that_goes_and_returns_is_not_embedded_again(house, asked):
    house.run("curate")
    assert sorted(asked) == sorted(TEXTS)
    house.write("sums.jsonl", [{"question": text} for text in TEXTS[:2]])
    house.recipe["sources"][0]["mode"] = "mirror"
    house.run("curate")
    house.write("sums.jsonl", [{"question": text} for text in reversed(TEXTS)])
    house.run("curate")
    assert len(asked) == len(TEXTS) and len(house.rows("embed", "embeddings")) == len(TEXTS)


def test_a_question_under_another_id_with_the_same_text_is_not_embedded_again(house, asked):
    house.run("curate")
    messages = [{"role": "user", "content": TEXTS[0]}]
    messages = [*messages, {"role": "assistant", "content": "48"}, {"role": "user", "content": ""}]
    before = embeddings.embedded_text([{"role": "user", "content": TEXTS[0]}])
    asked.clear()
    moved = [{"role": "system", "content": TEXTS[1]}, {"role": "user", "content": TEXTS[2]}]
    house.write("sums.jsonl", [{"question": text} for text in TEXTS] + [{"messages": moved}])
    house.run("curate")
    assert len(asked) == 1
    spoken = [moved[0], {"role": "assistant", "content": "Yes."}, moved[1]]
    house.write("sums.jsonl", [{"question": text} for text in TEXTS] + [{"messages": moved}, {"messages": spoken}])
    house.run("curate")
    assert len(asked) == 1 and before == TEXTS[0]  # another id, the same text
    assert len(house.rows("embed", "embeddings")) == len(TEXTS) + 2


def test_another_model_embeds_all_again_and_going_back_embeds_nothing(house, asked, tmp_path):
    house.run("curate")
    asked.clear()
    folder = static_model(tmp_path / "static")
    house.recipe["curate"]["embedding"] = {"model": str(folder), "kind": "model2vec"}
    done = {one.step: one for one in house.run("curate")}
    assert sorted(asked) == sorted(TEXTS) and "model all-MiniLM-L6-v2 → static" in done["embed"].why[0].replace('"', "")
    assert "pairs" in done
    revisions = {row["model_revision"] for row in house.rows("embed", "embeddings")}
    assert len(revisions) == 1 and revisions.pop().startswith("static@")
    asked.clear()
    del house.recipe["curate"]["embedding"]
    house.run("curate")
    assert asked == []


def test_a_model_folder_that_changes_has_another_fingerprint(tmp_path):
    folder = static_model(tmp_path / "static")
    settings = EmbeddingSettings(model=str(folder), kind="model2vec")
    before, vectors = settings.identity(), embed(TEXTS, settings)
    assert before == settings.identity()
    static_model(folder, seed=2)
    assert settings.identity() != before
    assert not np.array_equal(embed(TEXTS, settings), vectors)  # nor is the old model kept in memory


def test_a_hub_model_that_moves_between_runs_is_refused(house, monkeypatch):
    house.run("curate")
    house.write("sums.jsonl", [{"question": text} for text in [*TEXTS, "Who was Ada Lovelace, and what did she do?"]])
    monkeypatch.setattr(embeddings, "model_revision", lambda settings: "all-MiniLM-L6-v2@other")
    with pytest.raises(BadSetting, match=r"vectors here are of .*; set curate\.embedding\.revision"):
        house.run("curate")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_pending_dropped_with_its_rule_and_tried_again(house, monkeypatch, value):
    with monkeypatch.context() as patch:
        spoil(patch, TEXTS[0], value)
        house.run("curate")
    workspace = house.workspace
    assert sum(workspace.head("embed", shard).pending for shard in workspace.shards) == 1
    assert [row["fault"] for row in house.rows("embed", "embeddings") if row["fault"]] == [NOT_FINITE]
    assert house.rules("curate") == {"no_embedding": 1} and len(house.rows("curate", "curated")) == 3
    done = house.run("curate")
    assert any("1 units pending" in one.why for one in done if one.step == "embed")
    assert house.rules("curate") == {} and len(house.rows("curate", "curated")) == 4


def test_a_zero_vector_is_dropped_with_its_rule_and_not_tried_again(house, monkeypatch):
    spoil(monkeypatch, TEXTS[0], 0.0)
    house.run("curate")
    assert [row["fault"] for row in house.rows("embed", "embeddings") if row["fault"]] == [ZERO]
    assert house.rules("curate") == {"no_embedding": 1} and house.run("curate") == []


def test_a_model_that_gives_nothing_finite_is_an_error(house, monkeypatch):
    spoil(monkeypatch, None, np.nan)
    house.bits = 0
    with pytest.raises(BadSetting, match="gave no finite vector for any of 4 questions"):
        house.run("curate")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"model": "/nowhere/at/all"}, "can't be loaded as sentence-transformers"),
        ({"kind": "model2vec"}, "is no static model"),
    ],
)
def test_a_model_that_is_not_there_says_what_to_do(settings, complaint):
    with pytest.raises(BadSetting, match=complaint):
        embed(TEXTS, EmbeddingSettings(**settings))


def static_model(folder, seed=None):
    """A static model of MiniLM's own token embeddings, turned where a seed is given."""
    model2vec = pytest.importorskip("model2vec")
    from sentence_transformers import SentenceTransformer

    net = embeddings._load(embeddings.PACKAGED, "sentence-transformers", None, ())
    assert isinstance(net, SentenceTransformer)
    weights = net[0].auto_model.get_input_embeddings().weight.detach().numpy().astype(np.float32)
    weights = weights - weights.mean(axis=0)
    if seed:
        weights = weights * np.random.default_rng(seed).uniform(0.5, 2, weights.shape[1]).astype(np.float32)
    tokenizer = net.tokenizer.backend_tokenizer
    tokenizer.no_padding()
    tokenizer.no_truncation()
    model2vec.StaticModel(weights, tokenizer).save_pretrained(folder)
    return folder


def test_a_static_model_sees_alike_what_is_alike(tmp_path):
    settings = EmbeddingSettings(model=str(static_model(tmp_path / "static")), kind="model2vec")
    texts = [TEXTS[0], "How many legs do six spiders have altogether?", TEXTS[1], "x " * 500_000]
    cosines = embed(texts, settings).astype(np.float32) @ embed(texts, settings).astype(np.float32).T
    assert cosines[0, 1] > 0.8 > 0.5 > cosines[0, 2] and np.allclose(cosines.diagonal(), 1, atol=2e-3)


def test_the_commit_says_how_many_texts_are_longer_than_the_window(house):
    house.write("sums.jsonl", [{"question": text} for text in [*TEXTS, "Add up: " + " ".join(map(str, range(2000)))]])
    house.run("curate")
    workspace = house.workspace
    assert sum(workspace.head("embed", shard).extra["over_window"] for shard in workspace.shards) == 1


def test_matrix_of_no_rows_has_none():
    assert embeddings.matrix(pa.table({"vector": pa.array([], pa.list_(pa.float16()))})).shape == (0, 0)
    assert json.dumps(EmbeddingSettings().identity())  # goes into books
