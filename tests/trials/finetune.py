"""How many steps fine-tuning saves: from the demo's checkpoint to two classes that it never saw.

    python -m tests.trials.finetune --checkpoint=runs/shapes --out=runs/finetune \
        --runs scratch:4e-3:2000 finetune:1e-3:100 finetune:1e-3:200

Draws images of arrows and moons, and trains detection with the demo's settings on them, from
scratch or with `init_from`. A run is START:RATE:STEPS and has its own warm-up and decay of the
rate, so its box AP is that of a finished run. The table has a row for each run; runs that are in
--out are not made again. Not part of the test suite, because it takes minutes.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

from pix2seq_jax.data.shapes import dataset

NEW = ("arrow", "moon")


def main() -> None:
    """Prints a row for each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", required=True, help="workdir of the demo")
    parser.add_argument("--out", required=True, help="folder of the images and the runs")
    parser.add_argument("--runs", nargs="+", required=True, help="START:RATE:STEPS")
    parser.add_argument("--train", type=int, default=2000, help="images")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    out = Path(options.out)
    dataset.generate(out / "new", dataset.Spec(train=options.train, seed=3, classes=NEW))
    print("start | rate | steps | box AP | AP50 | CPU seconds", flush=True)
    for text in options.runs:
        start, rate, steps = text.split(":")
        name = f"{start}_{rate}_{steps}_{options.seed}"
        flags = [f"--config.schedule.base={rate}", f"--config.train.steps={steps}"]
        flags.append(f"--config.seed={options.seed}")
        if start == "finetune":
            flags.append(f"--config.init_from={options.checkpoint}")
        elif start != "scratch":
            parser.error(f"{text}: begin a run with scratch or finetune")
        row = train(out / "new", out / name, flags)
        print(" | ".join([start, rate, steps, *row]), flush=True)


def train(data: Path, workdir: Path, flags: list[str]) -> list[str]:
    """AP, AP50 and CPU seconds of a run, made where it is not there."""
    command = [sys.executable, "-m", "pix2seq_jax.main", "--config=detection:shapes"]
    command += [f"--workdir={workdir}", "--config.eval.pictures=0", *flags]
    for split in dataset.SPLITS:
        file = data / "annotations" / f"instances_{split}.json"
        command.append(f"--config.data.{split}_images={data / split}")
        command.append(f"--config.data.{split}_annotations={file}")
    seconds = ""
    if not (workdir / "metrics.json").exists():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        log = workdir.with_suffix(".log")
        with log.open("w", encoding="utf-8") as file:
            subprocess.run(command, check=True, stdout=file, stderr=subprocess.STDOUT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = f"{after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime:.0f}"
    metrics = json.loads((workdir / "metrics.json").read_text(encoding="utf-8"))
    box = metrics["detection"]
    return [f"{box['AP']:.3f}", f"{box['AP50']:.3f}", seconds]


if __name__ == "__main__":
    main()
