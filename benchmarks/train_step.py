"""Seconds and memory of a training step, beside the time that its arithmetic alone would take.

    python benchmarks/train_step.py --config=vit-b --size=640 --batch=1
    python benchmarks/train_step.py --config=multitask --batch=16 --dtype=bfloat16

`multitask` is ViT-B with the four tasks of configs/multitask.py, --batch images of each.

The data are random numbers, so no file is read; jax, flax and optax are all that is needed.
"""

import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

sys.path.insert(0, str(Path(__file__).parent))
import measure

from pix2seq_jax.models.backbones.resnet import ResNetBackbone
from pix2seq_jax.models.backbones.vit import VitBackbone
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.tasks.captioning import Captioning
from pix2seq_jax.tasks.detection import Detection
from pix2seq_jax.tasks.keypoints import Keypoints
from pix2seq_jax.tasks.segmentation import Segmentation
from pix2seq_jax.training import flops, optim, sharding
from pix2seq_jax.training import state as train_state
from pix2seq_jax.training import step as train_step
from pix2seq_jax.vocab import Vocab

# The sizes of config/architectures.py, which needs more than jax; --config chooses one.
RESNET = {"backbone": ResNetBackbone(), "enc_layers": 6, "enc_dim": 256, "enc_mlp": 1024}
RESNET |= {"enc_heads": 8, "dec_dim": 256, "dec_mlp": 1024, "dec_heads": 8}
DEMO = {"backbone": VitBackbone(patch_size=8), "enc_layers": 2, "enc_dim": 128, "enc_mlp": 512}
DEMO |= {"enc_heads": 4, "dec_layers": 2, "dec_dim": 128, "dec_mlp": 512, "dec_heads": 4}
DEMO |= {"drop_path": 0.0, "drop_units": 0.0, "attention_init": "matrix"}
CONFIGS: dict[str, dict[str, Any]] = {"vit-b": {}, "resnet50": RESNET, "demo": DEMO}
CONFIGS |= {"multitask": {}}
# Images of a step of the demo, by task.
DEMO_IMAGES = {"detection": 48, "segmentation": 16, "keypoints": 8, "captioning": 8}
WORDS = 256  # of the captions of the demo
OBJECTS, CAPTIONS = 100, 5


def main() -> None:
    """Prints the table."""
    parser = measure.arguments(__doc__)
    parser.add_argument("--config", default="vit-b", choices=CONFIGS)
    parser.add_argument(
        "--size", type=measure.whole, default=640, help="side of the images in pixels"
    )
    parser.add_argument("--batch", type=measure.whole, default=1, help="images of a step")
    parser.add_argument("--vocabulary", type=int, default=0, help="0: that of the config")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--remat", action="store_true", help="compute activations again")
    parser.add_argument("--remat_policy", default="all", help="model.remat_policy")
    parser.add_argument("--attention", default="auto", help="model.attention")
    options = parser.parse_args()
    fields = {
        name: getattr(options, name) for name in ("dtype", "remat", "remat_policy", "attention")
    }
    model, tasks, images = step_of(options.config, options.size, options.batch, options.vocabulary)
    row = step_row(model.clone(**fields), tasks, images, options.runs)
    facts = {"config": options.config, "size": model.image_size, "images": images} | fields
    measure.report([row], options.json, **facts, matrix_gflops=row["matrix GFLOP/s"])


def step_of(
    config: str, size: int, batch: int, vocabulary: int = 0
) -> tuple[Pix2Seq, dict[str, Any], dict[str, int]]:
    """The model, the tasks, and the images of each, of one of CONFIGS."""
    if config == "demo":
        tasks, images, size, vocabulary = demo_tasks(), DEMO_IMAGES, 48, 412
    elif config == "multitask":
        vocabulary = vocabulary or 35_000
        tasks = published_tasks(vocabulary)
        images = dict.fromkeys(tasks, batch)
    else:
        vocabulary = vocabulary or 3000
        words = Vocab(size=vocabulary, num_bins=1000, num_classes=91, coord_shift=1000)
        tasks = {"detection": Detection(words, max_instances=OBJECTS)}
        images = {"detection": batch}
    length = max(task.max_len for task in tasks.values())
    sides = {"image_size": (size, size), "vocab_size": vocabulary, "max_seq_len": length}
    return Pix2Seq(**sides, **CONFIGS[config]), tasks, images


def published_tasks(vocabulary: int) -> dict[str, Any]:
    """Those of configs/multitask.py."""
    shifts = {"coord_shift": 1000, "text_shift": 3000, "text_size": vocabulary - 3000}
    words = Vocab(size=vocabulary, num_bins=1000, num_classes=91, **shifts)
    return {
        "detection": Detection(words, max_instances=OBJECTS),
        "segmentation": Segmentation(words, max_instances=10, max_points=128),
        "keypoints": Keypoints(words, max_instances=1, num_keypoints=17),
        "captioning": Captioning(words, captions_per_image=CAPTIONS, max_tokens=128),
    }


def demo_tasks() -> dict[str, Any]:
    """Those of configs/multitask.py:shapes."""
    words = Vocab(
        size=412, num_bins=48, num_classes=7, coord_shift=108, text_shift=156, text_size=WORDS
    )
    return {
        "detection": Detection(words, max_instances=4),
        "segmentation": Segmentation(words, max_instances=1, max_points=24, padding_weight=0.0),
        "keypoints": Keypoints(words, max_instances=1, num_keypoints=17),
        "captioning": Captioning(
            words, captions_per_image=CAPTIONS, max_tokens=32, padding_weight=0.0
        ),
    }


def example(task: Any, images: int, size: int) -> dict[str, jax.Array]:
    """A batch of random images full of objects, with all fields that tasks read."""
    keys = jax.random.split(jax.random.key(0), 3)
    slots = task.max_instances or 1
    corner = jax.random.uniform(keys[0], (images, slots, 2), maxval=0.5)
    points = {"polygons": 2 * getattr(task, "max_points", 1)}
    points["keypoints"] = 2 * getattr(task, "num_keypoints", 1)
    fields = {
        name: jax.random.uniform(keys[1], (images, slots, count)) for name, count in points.items()
    }
    shape = (images, CAPTIONS, getattr(task, "max_tokens", 1))
    return fields | {
        "image": jax.random.uniform(keys[2], (images, size, size, 3)),
        "boxes": jnp.concatenate([corner, corner + 0.4], axis=-1),
        "labels": jnp.ones((images, slots), jnp.int32),
        "captions": jax.random.randint(keys[1], shape, 3, WORDS),
    }


def step_row(
    model: Pix2Seq, tasks: Mapping[str, Any], images: Mapping[str, int], runs: int
) -> dict[str, Any]:
    """The figures of one step."""
    rate = optim.schedule("none", base=1e-4, batch_size=1, total=1000)
    tx = optim.make("adamw", rate)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    step = train_step.make_step(model, tasks, tx, rate)
    with jax.set_mesh(mesh):
        state = train_state.init_state(model, tx, jax.random.key(0), mesh=mesh)
        batches = {
            name: example(task, images[name], model.image_size[0]) for name, task in tasks.items()
        }
        key = jax.random.key(1)
        start = time.perf_counter()
        update = train_step.jit_step(step, state, mesh=mesh).lower(state, batches, key).compile()
        seconds = time.perf_counter() - start
        last = {"state": state}

        def run() -> Any:
            last["state"], last["metrics"] = update(last["state"], batches, key)
            return last["metrics"]

        timing = measure.timed(run, runs=runs)
    work = flops.of_step(model, tasks, images)
    work += flops.of_logits(model, float(last["metrics"]["tokens"]))
    row = {"step": timing, "images/s": sum(images.values()) / timing.median, "compile s": seconds}
    return row | floor(work, timing, model.dtype) | memory(update)


def floor(work: float, timing: measure.Timing, dtype: str) -> dict[str, float]:
    """What the arithmetic alone would take."""
    speed = measure.matrix_rate(dtype)
    return {
        "GFLOP": work / 1e9,
        "matrix GFLOP/s": speed / 1e9,
        "floor s": work / speed,
        "times the floor": timing.median * speed / work,
    }


def memory(update: Any) -> dict[str, float]:
    """Of the compiled step, and the most that the device held, or else this process."""
    stats = jax.devices()[0].memory_stats() or {}
    resident = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "temporaries GiB": update.memory_analysis().temp_size_in_bytes / 2**30,
        "peak GiB": stats.get("peak_bytes_in_use", resident) / 2**30,
    }


if __name__ == "__main__":
    main()
