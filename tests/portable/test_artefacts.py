"""An export in a process that has neither this package nor Flax nor TensorFlow, against the
library."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import export as jax_export

import pix2seq_jax
from pix2seq_jax.data import rows
from pix2seq_jax.data.ops.chain import read_chain
from pix2seq_jax.decoding import generate
from pix2seq_jax.experiment import resolve, saved_run
from pix2seq_jax.portable import artefacts, description, load_exported, weights
from pix2seq_jax.tasks.base import images
from pix2seq_jax.training import sharding
from tests.helpers import four_tasks, small
from tests.helpers.commands import command

RECORDED = Path(__file__).parents[1] / "golden" / "workdir_0_1"  # of all four tasks
BLOCKED = ("flax", "tensorflow", "pix2seq_jax", "optax", "orbax", "ml_collections", "PIL")
CALLER = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
sys.path.insert(0, sys.argv[1])
import json
import numpy as np
import load_exported
model = load_exported.load()
inputs = np.load("inputs.npz")
pixels = [inputs[f"pixels{{i}}"] for i in range(int(inputs["count"]))]
found = {{}}
for task in model.tasks:
    batch = {{name.split(":")[1]: inputs[name] for name in inputs if name.startswith(task + ":")}}
    boxes, labels = batch.pop("boxes", None), batch.pop("labels", None)
    memory = model.encode(batch["image"])
    for name, value in model.decode(task, memory, batch, boxes=boxes, labels=labels).items():
        found[f"{{task}}:{{name}}"] = value
np.savez("found.npz", **found)
json.dump(model.predict(pixels, threshold=0.0), open("rows.json", "w"))
loaded = [name for name in {BLOCKED!r} if name in sys.modules]
assert not loaded, loaded
"""


@pytest.fixture(scope="module")
def pixels(tmp_path_factory) -> list[np.ndarray]:
    folder = small.make_shapes(tmp_path_factory.mktemp("data") / "shapes")
    files = sorted((folder / "val").glob("*.jpg"))[:3]
    return [rows.read(str(file), (0, 0), lambda name: Path(name).read_bytes())[0] for file in files]


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("exported")
    artefacts.write(RECORDED, out, sampler="greedy")
    return out


@pytest.fixture(scope="module")
def library() -> dict:
    """The model, its variables and its tasks, which draw greedily."""
    config = saved_run.load_config(RECORDED).unlock()
    for section in config.tasks.values():
        section.sampler, section.num_samples = "greedy", 1
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    model = resolve.make_model(config)
    _, variables = saved_run.load_variables(RECORDED, config, model, mesh)
    return {
        "config": config,
        "model": model,
        "variables": jax.tree.map(np.asarray, variables),
        "tasks": resolve.make_tasks(config),
    }


def prepared(pixels, boxes, section, *, prompted: bool) -> dict[str, np.ndarray]:
    """The images as the library prepares them, by TensorFlow; `boxes` f32[B,4] in pixels."""
    chain = read_chain(section.eval_ops)
    ops = chain.tensor_ops if prompted else chain.image_ops
    make = rows.Preprocess(ops, objects=prompted, spec=section.eval_ops)
    made = {}
    for number, (image, box) in enumerate(zip(pixels, boxes, strict=True)):
        size = np.array(image.shape[:2], np.int32)
        objects = {
            "boxes": np.float32([box / np.tile(size, 2)]),
            "labels": np.int32([1]),
            "scores": np.ones(1, np.float32),
            "is_crowd": np.zeros(1, bool),
        }
        made[number] = make({"image": image, "orig_size": size} | objects, number)
    batch = make.batch(made, len(made))
    ids = np.stack([np.arange(len(made)), np.zeros(len(made))], axis=1).astype(np.uint32)
    return batch | {"image": np.asarray(images(batch)), "ids": ids}


BOXES = np.float32([[5, 8, 40, 30], [0, 0, 20, 60], [29.3, 10.2, 33.7, 16.1]])


def test_another_process_without_the_package_gives_the_same_tokens(
    exported, library, pixels, tmp_path
):
    inputs = {"count": len(pixels)} | {f"pixels{i}": image for i, image in enumerate(pixels)}
    batches = {}
    for name, task in library["tasks"].items():
        section = library["config"].tasks[name]
        batch = prepared(pixels, BOXES, section, prompted=task.prompted)
        batches[name] = batch
        fields = ("image", "orig_size", "unpadded_size", "crop_offset", "ids")
        inputs |= {f"{name}:{field}": batch[field] for field in fields}
        if task.prompted:
            inputs |= {f"{name}:boxes": BOXES[:, None], f"{name}:labels": batch["labels"]}
    np.savez(tmp_path / "inputs.npz", **inputs)
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    for name in ("PYTHONPATH", "JAX_COMPILATION_CACHE_DIR"):
        environment.pop(name, None)
    subprocess.run(
        [sys.executable, "-c", CALLER, str(exported)], check=True, cwd=tmp_path, env=environment
    )
    model, variables = library["model"], library["variables"]
    with np.load(tmp_path / "found.npz") as found:
        for name, task in library["tasks"].items():
            batch = {field: value for field, value in batches[name].items() if field != "image"}
            memory = model.apply(variables, batches[name]["image"], method="encode")
            draw = artefacts.make_draw(model, task, library["config"].tasks[name])
            example = batch | {"image": batches[name]["image"]}
            drawn = jax.jit(draw)(variables, memory, example, 0)
            tokens = found[f"{name}:tokens"]
            assert len(tokens) == 3 and len(np.unique(tokens)) > 1
            np.testing.assert_array_equal(tokens, drawn.tokens)
            np.testing.assert_allclose(found[f"{name}:likelihoods"], drawn.scores, atol=1e-5)
            wanted = artefacts.read_drawn(task, drawn, example)
            for field, value in wanted.items():
                np.testing.assert_allclose(found[f"{name}:{field}"], value, atol=1e-3)


def test_the_loader_prepares_and_predicts_like_the_library(exported, library, pixels):
    model = load_exported.load(exported)
    large = np.kron(pixels[0], np.ones((2, 3, 1), np.uint8))  # shrinks
    every, boxes = [*pixels, large], np.concatenate([BOXES, BOXES[:1]])
    for name, task in library["tasks"].items():
        wanted = prepared(every, boxes, library["config"].tasks[name], prompted=task.prompted)
        batch = model.prepare(every, name, boxes if task.prompted else ())
        for field in ("orig_size", "unpadded_size", "crop_offset", "ids"):
            np.testing.assert_array_equal(batch[field], wanted[field])
        # One step of a byte, where the exact value is a half.
        np.testing.assert_allclose(batch["image"], wanted["image"], atol=1.001 / 255)
        assert np.mean(batch["image"] != wanted["image"]) < 0.05
        if task.prompted:
            normalised = load_exported._normalised(boxes[:, None], batch)
            np.testing.assert_allclose(normalised, wanted["boxes"], atol=1e-5)
    predictor = pix2seq_jax.load(RECORDED)
    for section in predictor.config.tasks.values():
        section.sampler, section.num_samples = "greedy", 1
    greedy = type(predictor)(
        predictor.config, predictor.variables, predictor.mesh, text=predictor.text
    )
    for row, result in zip(
        model.predict(pixels, threshold=0.0), greedy(pixels, threshold=0.0), strict=True
    ):
        assert [one["category"] for one in row["objects"]] == list(result.names)
        boxes = [one["box"] for one in row["objects"]]
        np.testing.assert_allclose(boxes, result.boxes, atol=1e-3)
        assert row["caption"] == result.caption
        for number, one in enumerate(row["objects"]):
            if result.visible is not None and result.visible[number].any():
                wanted = result.keypoints[number]
                np.testing.assert_allclose(one["keypoints"], wanted, atol=0.02)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("a.jpg", "an image that is 'a.jpg'"),
        (np.zeros((0, 4, 3), np.uint8), r"an image of uint8\[0, 4, 3\]"),
        (np.zeros((4, 0, 3), np.uint8), r"an image of uint8\[4, 0, 3\]"),
        (np.zeros((4, 4), np.uint8), r"an image of uint8\[4, 4\]"),
        (np.zeros((4, 4, 3)), r"an image of float64\[4, 4, 3\]"),
    ],
)
def test_the_loader_refuses_what_is_no_image(exported, image, words):
    with pytest.raises(ValueError, match=rf"{words}: give u8\[h,w,3\], RGB"):
        load_exported.load(exported).predict([image])


def test_classes_of_one_name_are_prompted_as_themselves(exported, pixels):
    one, other = load_exported.load(exported), load_exported.load(exported)
    other.description["classes"]["names"] = ["thing"] * len(one.description["classes"]["names"])
    rows, named = (model.predict(pixels, threshold=0.0) for model in (one, other))
    categories = {thing.pop("category") for row in rows for thing in row["objects"]}
    assert {thing.pop("category") for row in named for thing in row["objects"]} == {"thing"}
    assert len(categories) > 1
    assert any("outlines" in thing for row in rows for thing in row["objects"])
    assert named == rows
    assert one.predict([]) == []


def test_draws_of_windows_follow_from_their_own_image(exported, pixels, monkeypatch):
    """And a fixed number of windows is looked at, so that nothing compiles again."""
    monkeypatch.setattr(load_exported, "WINDOWS", 3)
    model, seen = load_exported.load(exported), []
    decode = model.decode

    def watched(task, memory, batch, **fields):
        if fields:
            seen.append((batch["ids"][:, 0].tolist(), fields["labels"][:, 0].tolist()))
        return decode(task, memory, batch, **fields)

    monkeypatch.setattr(model, "decode", watched)
    rows = model.predict(pixels, threshold=0.0)
    assert {len(ids) for ids, _ in seen} == {3}
    pairs = [pair for ids, labels in seen for pair in zip(ids, labels, strict=True)]
    asked = [number for number, label in pairs if label]
    objects = [n for n, row in enumerate(rows) for one in row["objects"] if "outlines" in one]
    assert len(objects) > 3 and asked[: len(objects)] == objects


def test_functions_call_no_library_of_one_platform(exported):
    for file in exported.glob("*.jax_export"):
        made = jax_export.deserialize(bytearray(file.read_bytes()))
        assert made.platforms == ("cpu", "cuda", "tpu")
        text = made.mlir_module()
        assert "cudnn" not in text and "cublas" not in text


def test_an_attention_of_one_device_is_replaced():
    model = four_tasks.tiny(attention="auto", image_size=(32, 32))
    assert model.attention == "auto"
    config = saved_run.load_config(RECORDED).unlock()
    for given, wanted in (
        ("auto", "plain"),
        ("cudnn", "plain"),
        ("splash", "plain"),
        ("blockwise", "blockwise"),
    ):
        config.model.attention = given
        assert artefacts.portable_model(config).attention == wanted
    config.model.image_size, config.model.attention = (400, 400), "cudnn"  # 625 image tokens
    assert artefacts.portable_model(config).attention == "blockwise"


def test_long_images_export_with_a_symbolic_batch(library):
    """Blockwise attention, and a response that needs more than one block of the cache."""
    model = four_tasks.tiny(attention="blockwise", max_seq_len=300)
    state = four_tasks.initial(model)
    task = type(four_tasks.TASKS["segmentation"])(four_tasks.VOCAB, max_points=140)
    section = library["config"].tasks["segmentation"]
    named = weights.trees.flatten_names({"params": state.params})
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in named.items()}
    batch, objects = jax_export.symbolic_shape("b, n")
    encode = artefacts._exported(
        artefacts.encode_function(model), shapes, jax.ShapeDtypeStruct((batch, 32, 32, 3), float)
    )
    memory = jax.ShapeDtypeStruct(encode.out_avals[0].shape, np.float32)
    decode = artefacts._exported(
        artefacts.decode_function(model, task, section),
        shapes,
        memory,
        artefacts._fields(batch, objects),
        jax.ShapeDtypeStruct((), np.int32),
    )
    assert decode.mlir_module().count("stablehlo.while") >= 3


@pytest.mark.parametrize("sampler,samples", [("beam(2)", 1), ("nucleus(0.9)", 8)])
def test_sequences_are_cut_out_in_a_symbolic_batch(library, monkeypatch, sampler, samples):
    """Beams follow each other; of eight samples the last ones go on alone."""
    monkeypatch.setattr(generate, "NARROWED_LENGTH", 1)
    model = four_tasks.tiny()
    section = library["config"].tasks["captioning"].copy_and_resolve_references().unlock()
    section.sampler, section.num_samples = sampler, samples
    named = weights.trees.flatten_names({"params": four_tasks.initial(model).params})
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in named.items()}
    batch, objects = jax_export.symbolic_shape("b, n")
    decode = artefacts._exported(
        artefacts.decode_function(model, four_tasks.TASKS["captioning"], section),
        shapes,
        jax.ShapeDtypeStruct((batch, 64, model.dec_dim), np.float32),
        artefacts._fields(batch, objects),
        jax.ShapeDtypeStruct((), np.int32),
    )
    # One loop over images, one over tokens, and two more for two and no samples that are left.
    assert decode.mlir_module().count("stablehlo.while") >= (4 if samples == 8 else 1)


def test_an_int8_model_is_exported_with_a_symbolic_batch(library, monkeypatch):
    """Kernels, image keys and full blocks of tokens are rounded in the program; it gives what the
    library gives."""
    monkeypatch.setattr(generate, "BLOCK", 3)
    model = four_tasks.tiny(kernel_dtype="int8", cache_dtype="int8")
    section = library["config"].tasks["captioning"]
    arrays = weights.trees.flatten_names({"params": four_tasks.initial(model).params})
    decode = artefacts.decode_function(model, four_tasks.TASKS["captioning"], section)

    def given(struct: jax.ShapeDtypeStruct) -> np.ndarray:
        return np.random.default_rng(0).normal(32, 1, struct.shape).astype(struct.dtype)

    def inputs(batch) -> tuple:
        memory = jax.ShapeDtypeStruct((batch, 64, model.dec_dim), np.float32)
        return memory, artefacts._fields(batch, None), jax.ShapeDtypeStruct((), np.int32)

    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in arrays.items()}
    (batch,) = jax_export.symbolic_shape("b")
    exported = artefacts._exported(decode, shapes, *inputs(batch))
    real = jax.tree.map(given, inputs(3))
    found, wanted = exported.call(arrays, *real), jax.jit(decode)(arrays, *real)
    np.testing.assert_array_equal(found["tokens"], wanted["tokens"])
    np.testing.assert_allclose(found["likelihoods"], wanted["likelihoods"], rtol=1e-4)
    assert exported.mlir_module().count("xi8>") > 10


def test_random_draws_are_those_of_the_library(pixels, tmp_path):
    artefacts.write(RECORDED, tmp_path, tasks="detection")
    model = load_exported.load(tmp_path)
    assert model.description["tasks"]["detection"]["sampler"].startswith("nucleus")
    predictor = pix2seq_jax.load(RECORDED, tasks=["detection"])
    batch = model.prepare(pixels, "detection")
    memory = model.encode(batch["image"])
    found = model.decode("detection", memory, batch, seed=predictor.config.seed)
    for number, result in enumerate(predictor(pixels, threshold=0.0)):
        order = np.argsort(-found["scores"][number], kind="stable")
        np.testing.assert_allclose(found["scores"][number][order], result.scores, atol=1e-5)
        np.testing.assert_allclose(found["boxes"][number][order], result.boxes, atol=1e-3)


def test_the_description_says_what_the_vocabulary_is(exported, library):
    content = json.loads((exported / description.FILE).read_text())
    vocab = library["tasks"]["detection"].vocab
    assert content["vocabulary"]["classes"] == list(vocab.class_range)
    assert content["vocabulary"]["coordinates"] == list(vocab.coord_range)
    assert content["classes"]["names"] == list(library["config"].data.category_names)
    assert len(content["pieces"]) == vocab.text_size
    assert set(content["tasks"]) == set(library["tasks"])


def test_preprocessing_that_the_loader_lacks_is_refused():
    chain = read_chain("decode|resize(32)|flip_lr|pad_image(32)")
    with pytest.raises(ValueError, match="eval_ops: flip_lr cannot be exported"):
        description.check_portable(chain, "config.tasks.detection.eval_ops")


def test_the_command(tmp_path):
    out = tmp_path / "weights"
    command("export", f"--workdir={RECORDED}", f"--out={out}", "--weights_only")
    assert [path.name for path in out.iterdir()] == [weights.WEIGHTS_FILE]
    printed = command("export", f"--workdir={tmp_path}", f"--out={out}", code=2)
    assert "is not the workdir of a run" in printed


def test_a_run_with_a_kernel_is_opened_where_the_kernel_is_not(monkeypatch, pixels, tmp_path):
    """Its parameters do not depend on it."""
    load = saved_run.load_config

    def with_kernel(*arguments):
        config = load(*arguments).unlock()
        config.model.attention = "splash"
        return config

    monkeypatch.setattr(saved_run, "load_config", with_kernel)
    artefacts.write(RECORDED, tmp_path, tasks="detection")
    model = load_exported.load(tmp_path)
    batch = model.prepare(pixels, "detection")
    assert np.isfinite(model.encode(batch["image"])).all()
