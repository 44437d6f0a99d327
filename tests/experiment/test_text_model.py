"""Where the text model of a run comes from, and what captions with defects do to it."""

import json

import pytest

from pix2seq_jax.experiment import inputs, text_model
from pix2seq_jax.experiment.logs import log
from tests.helpers import small


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small.make_shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture
def logged(caplog):
    caplog.set_level("INFO", logger="pix2seq_jax")
    log.addHandler(caplog.handler)
    yield caplog
    log.removeHandler(caplog.handler)


@pytest.fixture(scope="module")
def before(folder, tmp_path_factory):
    """(workdir of an earlier run, as far as its text model, that model)."""
    workdir = tmp_path_factory.mktemp("runs") / "before"
    text = text_model.open_text(small.config("captioning.py:shapes", folder), workdir)
    text_model.save_text(text, workdir)
    (workdir / "checkpoints" / "2" / "state").mkdir(parents=True)
    return workdir, text


def captions(folder, path, change):
    """Overrides with training captions that `change` made of those in the folder."""
    content = json.loads((folder / "annotations" / "captions_train.json").read_text())
    for number, record in enumerate(content["annotations"]):
        record["caption"] = change(number, record["caption"])
    path.write_text(json.dumps(content))
    return {"data__train_captions": str(path)}


def opened(folder, workdir, **overrides):
    return text_model.open_text(small.config("captioning.py:shapes", folder, **overrides), workdir)


@pytest.mark.parametrize("end", ["", "@2"])
def test_the_text_model_of_the_first_run_is_kept(folder, before, tmp_path, logged, end):
    """Of other captions another one would be trained, whose pieces have other rows."""
    first, text = before
    new = captions(folder, tmp_path / "c.json", lambda number, words: words.split()[-1])
    assert opened(folder, tmp_path / "run", **new) != text
    source = f"{first}{end}"
    assert opened(folder, tmp_path / "run", init_from=source, **new) == text
    assert f"text model of {text.size} pieces, that of config.init_from='{source}'" in logged.text


def test_one_that_cannot_write_the_captions_is_left(folder, before, tmp_path, logged):
    first, text = before
    new = captions(folder, tmp_path / "c.json", lambda n, words: "Größe ⅓" if n == 1 else words)
    made = opened(folder, tmp_path / "run", init_from=str(first), **new)
    assert made != text and made == opened(folder, tmp_path / "run", **new)
    given = f"--config.data.text_model={first}/text.model"
    assert "it cannot write 2 of" in logged.text and f"{given} takes it all" in logged.text
    path = {"data__text_model": str(first / "text.model")}
    assert opened(folder, tmp_path / "run", init_from=str(first), **new, **path) == text


def test_what_has_no_text_model_is_said(folder, before, tmp_path, logged):
    first, text = before
    (tmp_path / "bare" / "checkpoints").mkdir(parents=True)
    for source in (tmp_path / "bare", tmp_path / "model.safetensors"):  # it is trained again
        assert opened(folder, tmp_path / "run", init_from=str(source)) == text
        assert f"init_from='{source}' is not taken, so text starts fresh: no workdir" in logged.text
    room = {"init_from": str(first), "vocab__text_size": text.size - 1, "data__text_pieces": 60}
    assert opened(folder, tmp_path / "run", **room).size < text.size
    assert f"it has {text.size} pieces and config.vocab.text_size is" in logged.text


def test_the_workdir_and_the_flag_come_first(folder, before, tmp_path):
    first, text = before
    new = captions(folder, tmp_path / "c.json", lambda number, words: words.split()[-1])
    own = opened(folder, tmp_path / "run", **new)
    text_model.save_text(own, tmp_path / "run")
    # Of a run that saved nothing it does not count.
    assert opened(folder, tmp_path / "run", init_from=str(first)) == text
    text_model.save_text(text, tmp_path / "run")
    text_model.save_text(own, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "3" / "state").mkdir(parents=True)
    assert opened(folder, tmp_path / "run", init_from=str(first)) == own
    path = {"data__text_model": str(tmp_path / "run" / "text.model")}
    assert opened(folder, tmp_path / "other", init_from=str(first), **path) == own != text


def test_what_is_no_caption_is_refused_or_counted_by_the_source(tmp_path):
    """The text model is learned first, and from the others."""
    folder = small.make_shapes(tmp_path / "shapes")
    path = folder / "annotations" / "captions_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0].pop("caption")
    content["annotations"][1]["caption"] = None
    content["annotations"][2]["caption"] = "half an emoji \ud83d"
    path.write_text(json.dumps(content))
    config = small.config("captioning.py:shapes", folder)
    text = text_model.open_text(config, tmp_path / "run")
    with pytest.raises(ValueError, match="2 annotations with captions that are not text, first: "):
        inputs.open_sources(config, "train", text)
    config.data.bad_annotations = "drop"
    content["annotations"].append("no object")
    path.write_text(json.dumps(content))
    assert text_model.open_text(config, tmp_path / "run") == text
    described = inputs.describe(inputs.open_sources(config, "train", text))
    assert "2 annotations with captions that are not text, left out" in described
    assert "1 annotations with no keys, left out" in described
    assert "1 captions with half a character" in described


def test_captions_without_words_are_named(folder, tmp_path):
    blank = captions(folder, tmp_path / "blank.json", lambda number, words: " ")
    with pytest.raises(ValueError, match=r"blank\.json: no sentences to learn a text model from"):
        opened(folder, tmp_path / "run", **blank)


def test_a_flag_says_the_text_model_of_a_run_or_is_refused(folder, before, tmp_path):
    workdir, text = before
    config = small.config("captioning.py:shapes", folder)
    same, other = tmp_path / "same.model", tmp_path / "other.model"
    same.write_bytes(text.to_bytes())
    fewer = captions(folder, tmp_path / "c.json", lambda number, words: words.split()[-1])
    other.write_bytes(opened(folder, tmp_path / "run", **fewer).to_bytes())
    text_model.take_flag(config, "", workdir)
    assert not config.data.text_model
    with pytest.raises(ValueError, match=rf"--text_model={other} is another .* leave --text_model"):
        text_model.take_flag(config, str(other), workdir)
    with pytest.raises(ValueError, match=r"nowhere\.model"):
        text_model.take_flag(config, str(tmp_path / "nowhere.model"), workdir)
    text_model.take_flag(config, str(same), workdir)
    assert config.data.text_model == str(same)
