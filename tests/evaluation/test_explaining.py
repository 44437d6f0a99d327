"""What is said of tokens is what the model made of them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pix2seq_jax import explain
from pix2seq_jax.evaluation import explanations, predictor
from pix2seq_jax.evaluation.explaining import Explained
from pix2seq_jax.evaluation.explanations import shown
from pix2seq_jax.evaluation.token_words import Frame, Words
from pix2seq_jax.vocab import END_PIECE, FAKE, INVISIBLE, PADDING, PROMPT_KEYPOINTS, SEPARATOR
from tests.helpers import four_tasks
from tests.helpers.refusals import refused

RECORDED = Path(__file__).parents[1] / "golden" / "workdir_0_1"  # of all four tasks


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, Path, list[Explained]]:
    """(image, folder that the command wrote, what it was written of)."""
    image, out = tmp_path_factory.mktemp("image") / "a & b.png", tmp_path_factory.mktemp("out")
    noise = np.random.default_rng(1).integers(0, 255, (5, 8, 3), np.uint8)
    Image.fromarray(noise).resize((200, 120)).save(image)
    names = {flag.name: flag.default for flag in explain.FLAGS}
    given = {"workdir": str(RECORDED), "image": str(image), "out": str(out)}
    explained, write = [], explanations.write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            explanations,
            "write",
            lambda own, *args, **options: (explained.extend(own), write(own, *args, **options)),
        )
        explain.call(**(names | given | {"threshold": 0.0, "objects": 2}))
    return image, out, explained


def test_the_sequences_are_those_of_prediction(written):
    """Boxes and captions that the predictor gives are spelled by the tokens."""
    image, out, _ = written
    content = json.loads((out / "tokens.json").read_text())
    by_task: dict[str, list] = {}
    for one in content["sequences"]:
        by_task.setdefault(one["task"], []).append(one["tokens"])
    assert {"detection", "segmentation", "captioning"} <= set(by_task)
    model = predictor.load(RECORDED, tasks=["detection", "captioning"])
    (result,) = model(str(image), threshold=0.0)
    (caption,) = by_task["captioning"]
    assert caption[-1]["kind"] == "end" or len(caption) == model.config.tasks.captioning.max_tokens
    pieces = [token["token"] - model.config.vocab.text_shift for token in caption]
    pieces = [piece for piece in pieces if 0 <= piece < model.config.vocab.text_size]
    assert model.text.decode(pieces) == result.caption
    (tokens,) = by_task["detection"]
    rows = [tokens[start : start + 5] for start in range(0, len(tokens), 5)]
    real = [[one.get("pixels") for one in row[:4]] for row in rows]
    written_boxes = [box for box in real if None not in box and box[0] < box[2] and box[1] < box[3]]
    for box in np.clip(np.array(written_boxes).reshape(-1, 4), 0, [120, 200, 120, 200]):
        assert np.abs(result.boxes - box).max(axis=1).min() < 0.02


def test_probabilities_and_runners_up(written):
    for one in json.loads((written[1] / "tokens.json").read_text())["sequences"]:
        for token in one["tokens"]:
            others = [other["probability"] for other in token["runners_up"]]
            assert 0 <= token["probability"] <= 1 and others == sorted(others, reverse=True)
            assert len(others) == 3 and sum(others) + token["probability"] <= 1.0001
            assert token["token"] not in [other["token"] for other in token["runners_up"]]


def test_a_page_and_pictures(written):
    _, out, _ = written
    page = (out / "index.html").read_text()
    assert "a &amp; b.png" in page and "http" not in page
    sequences = json.loads((out / "tokens.json").read_text())["sequences"]
    assert page.count("<div class=two>") == len(sequences)
    assert page.count("data-map=") == sum(len(one["tokens"]) for one in sequences)
    for number, one in enumerate(sequences):
        for end in ("", "_attention", "_objects"):
            with Image.open(out / f"{number:02d}_{one['task']}{end}.png") as picture:
                assert np.asarray(picture).std() > 1


def test_where_the_model_looks_lies_on_what_it_sees(written):
    one = written[2][0]
    assert one.attention.shape == (len(one.tokens), *one.pixels.shape[:2])
    np.testing.assert_allclose(one.attention.max(axis=(1, 2)), 1, atol=1e-6)
    height, width = one.pixels.shape[:2]
    assert width == 48 and abs(height - 48 * 120 / 200) <= 1  # without the padding
    numbers = shown(one, 0.0, 2)
    assert len(numbers) == 10 and one.tokens[numbers[0]]["object"] == int(one.scores.argmax())
    assert len(shown(one, 2.0, 2)) == 5  # the best one


def test_words_of_tokens():
    vocab = four_tasks.VOCAB
    words, frame = Words(vocab, ["person", "circle", "a", "b", "c"]), Frame((62, 31), (10, 100))
    kinds = {
        PADDING: "end",
        PROMPT_KEYPOINTS: "task",
        FAKE: "noise",
        SEPARATOR: "separator",
        INVISIBLE: "invisible",
        102: "class",
        106: "coordinate",
        137: "coordinate",
        vocab.text_shift + END_PIECE: "end",
        vocab.text_shift + 5: "text",
        50: "unused",
    }
    assert {token: words.of(token, 0, frame)["kind"] for token in kinds} == kinds
    assert words.of(102, 0, frame)["text"] == "circle"
    last = words.of(137, 1, frame)
    assert (last["value"], last["pixels"], last["text"]) == (1.0, 131.0, "x 131")
    assert words.of(106, 0, frame)["text"] == "y 10"


def test_no_image_is_refused(tmp_path):
    names = {flag.name: flag.default for flag in explain.FLAGS}
    given = {"workdir": str(RECORDED), "image": str(tmp_path / "none.png"), "out": str(tmp_path)}
    with pytest.raises(ValueError, match=r"--image=.*none\.png: there is no such file"):
        explain.call(**(names | given | {"tasks": "detection"}))
    assert not list(tmp_path.iterdir())


def test_what_is_no_image_is_refused_before_the_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.delattr(predictor, "load")
    text, out = tmp_path / "read; me.md", tmp_path / "out"
    text.write_text("# No image")
    flags = (f"--workdir={RECORDED}", f"--image={text}", f"--out={out}")
    line, code = refused(lambda: explain.main(flags))
    assert code == 2 and not out.exists()
    assert f"error: --image={text} is no whole image; give another file" in line
