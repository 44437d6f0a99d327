"""Writes a data set as shards that are read faster than loose files, from a disk or gs://:

    python -m pix2seq_jax.prepare --source=data/coco --out=data/coco_shards

Then train with --config=configs/detection.py:data=data/coco_shards. The images are held
as they are stored, and the annotation files are copied beside the shards. The same command goes on
where it was stopped: it checks the shards that are there and writes those that are missing or
damaged.

--from says how the source is laid out: coco (train2017, val2017, annotations), coco_dir (train,
val, annotations), objects365 (as distributed), voc (VOCdevkit, VOC2012 or XML beside images),
yolo (data.yaml), or tfds:NAME (the --data_dir of `tfds build NAME`). Without it every layout in
COCO's format is recognised, as by data=DIR of a config.
"""

from collections.abc import Sequence

from pix2seq_jax.experiment import command
from pix2seq_jax.experiment.command import REQUIRED, Flag

FLAGS = (
    Flag(
        "from",
        "",
        "coco, coco_dir, objects365, voc, yolo, tfds:NAME; empty: any COCO layout is recognised.",
        argument="kind",
    ),
    Flag("source", REQUIRED, "Folder of the data set."),
    Flag("out", REQUIRED, "Folder to write."),
    Flag("splits", ("train", "val"), "Which splits."),
    Flag("images_per_shard", 4000, "Images of a shard; COCO has 30 shards then."),
    Flag("workers", 0, "Processes, each of which writes a shard; 0: one for each core."),
    Flag(
        "missing_images",
        "error",
        "What becomes of images that the annotations list and that are not in the folder: an "
        "error, or they are left out and counted.",
        choices=("error", "drop"),
    ),
    Flag("val_share", 0.2, "Of the images, where one file has no splits."),
    Flag("split_seed", 0, "Of that split."),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    command.run(call, FLAGS, __doc__, arguments)


def call(out: str, workers: int, **options) -> None:
    """Writes the shards."""
    import os

    from pix2seq_jax.experiment import logs, preparing

    logs.setup_logging()
    preparing.run(out=out, workers=workers or os.cpu_count() or 1, **options)
    print(
        f"written; train with --config=configs/detection.py:data={out}",
        flush=True,
    )


if __name__ == "__main__":
    main()
