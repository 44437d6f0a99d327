"""What a whole evaluation costs: images/s of four tasks on the embedded data, of each task beside
detection, and the share of the time in which the device has nothing to do.

    python benchmarks/evaluate.py --images=128

The model is the demo's, with random parameters. The work of the device is what the same calls of
encoder and decoders take when they are made again, one after the other, on arrays that are there.
On a CPU the host takes cores from the device, so that the share is a bound from above.
"""

import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import measure
import ml_collections
from flax import linen as nn

from pix2seq_jax.config.fill import fill
from pix2seq_jax.data.shapes import dataset
from pix2seq_jax.experiment import checks, opened

CONFIG = Path(__file__).parents[1] / "configs" / "multitask.py"
TASKS = ("detection", "segmentation", "keypoints", "captioning")


def config_on(folder: Path) -> ml_collections.ConfigDict:
    """The demo's config on a folder of the embedded data."""
    spec = importlib.util.spec_from_file_location("shipped_config", CONFIG)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config("shapes")
    kinds = {"annotations": "instances", "keypoints": "person_keypoints", "captions": "captions"}
    for split in ("train", "val"):
        config.data[f"{split}_images"] = str(folder / split)
        for kind, file in kinds.items():
            path = folder / "annotations" / f"{file}_{split}.json"
            config.data[f"{split}_{kind}"] = str(path)
    return config


class Replay:
    """A jitted function that keeps the arguments of its calls, to be made again."""

    def __init__(self, function: Callable) -> None:
        self.function, self.calls = function, []

    def __call__(self, *arguments: Any) -> Any:
        self.calls.append(arguments)
        return self.function(*arguments)

    def again(self) -> list[Any]:
        return [self.function(*arguments) for arguments in self.calls]


def evaluated(
    config: ml_collections.ConfigDict, workdir: Path, images: int, runs: int
) -> dict[str, Any]:
    """A row of the table: an evaluation of the tasks of a config."""
    mesh = checks.check(config, workdir, training=False)
    with jax.set_mesh(mesh):
        run = opened.open_run(config, workdir, mesh, evaluate_too=True)
        evaluator, model = run.evaluator, run.model
        shape = (1, *model.image_size, 3)
        tokens = jax.numpy.zeros((1, 1), "int32")
        made = jax.jit(model.init)(jax.random.key(0), jax.numpy.zeros(shape), tokens)
        variables = nn.meta.unbox(made)
        runner = evaluator._runner
        runner._encode = Replay(runner._encode)
        runner._decoders = {name: Replay(call) for name, call in runner._decoders.items()}
        replays = [runner._encode, *runner._decoders.values()]

        def whole() -> None:
            for replay in replays:
                replay.calls.clear()
            evaluator.results(variables, limit=images)

        def device() -> list[Any]:
            return [replay.again() for replay in replays]

        start = time.perf_counter()
        whole()
        first = time.perf_counter() - start
        timings = measure.timed_in_turns({"whole": whole, "device": device}, runs=runs, warm_up=0)
    wall, busy = timings["whole"], timings["device"]
    return {
        "tasks": "+".join(config.tasks),
        "images/s": images / wall.median,
        "whole": wall,
        "device": busy,
        "device waits": max(0.0, 1 - busy.median / wall.median),
        "host CPU share": max(0.0, 1 - busy.cpu / wall.cpu),
        "first, with compiling": first,
    }


def main() -> None:
    """Reads the flags, draws the data and evaluates."""
    parser = measure.arguments(__doc__)
    parser.add_argument(
        "--images", type=measure.whole, default=128, help="images that are evaluated"
    )
    parser.add_argument("--batch", type=measure.whole, default=32, help="config.eval.batch_size")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dataset.generate(folder, dataset.Spec(train=64, val=given.images, size=64), 1)
        for names in (TASKS[:1], TASKS[:2], (TASKS[0], TASKS[2]), (TASKS[0], TASKS[3]), TASKS):
            config = fill(config_on(folder))
            config.eval.batch_size = given.batch
            config.tasks = {name: config.tasks[name] for name in names}
            rows.append(evaluated(config, folder / "workdir", given.images, given.runs))
    measure.report(rows, given.json, images=given.images)


if __name__ == "__main__":
    main()
