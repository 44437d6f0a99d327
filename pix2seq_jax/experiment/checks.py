"""What is looked at before a run opens or writes anything; the one place where a config is refused.

The ranges of single fields are in `ranges`, the estimate of memory is in `memory`; here is what
several fields must agree on. What only the data can tell (classes, keypoints, files) is checked
where they are opened.
"""

import re
from pathlib import Path

import jax
import ml_collections

from pix2seq_jax.config import ranges
from pix2seq_jax.data.ops import geometry
from pix2seq_jax.data.ops import image as ops_image
from pix2seq_jax.data.ops import objects as ops_objects
from pix2seq_jax.data.ops.chain import read_chain
from pix2seq_jax.experiment import memory, resolve, trackers
from pix2seq_jax.experiment import workdir as folder
from pix2seq_jax.files.locations import path_of
from pix2seq_jax.models.pix2seq import Pix2Seq
from pix2seq_jax.pretrained import files
from pix2seq_jax.training import checkpoint, optim, processes, sharding
from pix2seq_jax.training import state as train_state
from pix2seq_jax.vocab import Vocab


def check(
    config: ml_collections.ConfigDict, workdir: str | Path, *, training: bool
) -> jax.sharding.Mesh:
    """Refuses a config or workdir that cannot work, and gives the mesh of the run.

    Args:
        config: resolved or not.
        workdir: of the run; it must be possible to write there.
        training: whether the fields on training have to agree as well.

    Raises:
        ValueError: one line that names the field, its value, and what to do.
    """
    folder.check_writable(workdir)
    processes.check_shared(workdir)
    ranges.check(config)
    resolve.task_names(config)
    sizes = {name: max(config.model[name], 1) for name in ("vocab_size", "max_seq_len")}
    model = Pix2Seq.from_config(config.model.to_dict() | sizes)
    Vocab(**resolve.laid_out(config.vocab))
    for name in config.tasks:
        _check_ops(config, name)
    mesh = resolve.make_mesh(config)
    if training:
        trackers.names_of(config.train.trackers)
        if config.train.profile_at:
            folder.check_local(workdir, what=f"config.train.profile_at={config.train.profile_at}")
        _check_training(config, mesh)
        if config.optim.frozen:
            optim.check_frozen(train_state.parameter_names(model), config.optim.frozen)
        # Others have weights of their own.
        if not checkpoint.steps(path_of(workdir) / folder.CHECKPOINTS):
            _check_source(config.init_from)
            _check_encoder(config)
    memory.check(config, mesh, training=training)
    return mesh


def batch_field(config: ml_collections.ConfigDict, task: str) -> str:
    """The field that decides on the batch of a task."""
    own = config.train.mixing == "batch" and config.tasks[task].batch_size
    return f"config.tasks.{task}.batch_size" if own else "config.train.batch_size"


def _check_training(config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Shares, schedule and batches."""
    resolve.check_weights(config)
    schedule, train = config.schedule, config.train
    if schedule.warmup + schedule.tail >= train.steps:
        raise ValueError(
            f"config.schedule.warmup={schedule.warmup} and config.schedule.tail={schedule.tail} "
            f"leave no step of config.train.steps={train.steps} to decay in; train longer or "
            "shorten them"
        )
    for name, section in config.tasks.items():
        field = batch_field(config, name)
        size = section.batch_size if field.startswith("config.tasks.") else train.batch_size
        sharding.check_batch(mesh, size, accum=train.accumulate, name=field)
        if size % train.repeats:
            raise ValueError(
                f"{field}={size} must be a multiple of config.train.repeats={train.repeats}, the "
                "times that each image is in a batch; change one of them"
            )
        if not sum(section.mix.values()) > 0:
            raise ValueError(
                f"config.tasks.{name}.mix={dict(section.mix)}: at least one share must be above 0"
            )


def _check_source(init_from: str) -> None:
    """A path with a mistake is named now; what is wrong inside the folder, when it is read."""
    path = re.sub(r"@\d+$", "", init_from)
    if (
        init_from
        and "://" not in init_from
        and not Path(init_from).exists()
        and not Path(path).is_dir()
    ):
        raise ValueError(
            f"config.init_from={init_from!r}: {path} is not a folder; give a workdir (or "
            "WORKDIR@STEP), an official checkpoint directory or the model.safetensors of an "
            "export, or ''"
        )


def _check_encoder(config: ml_collections.ConfigDict) -> None:
    """As `_check_source`, for the file of an encoder."""
    if not config.init_encoder:
        return
    if config.init_from:
        raise ValueError(
            f"config.init_from={config.init_from!r} has an encoder of its own, so "
            f"config.init_encoder={config.init_encoder!r} would overwrite it; give one of them"
        )
    files.check_path(config.init_encoder)


def _check_ops(config: ml_collections.ConfigDict, name: str) -> None:
    """Preprocessing strings hold sizes as numbers, which a flag on the model or the task does not
    change."""
    section, side = config.tasks[name], tuple(config.model.image_size)
    for field in ("train_ops", "eval_ops"):
        try:
            chain = read_chain(section[field])
        except ValueError as error:
            raise ValueError(f"config.tasks.{name}.{field}: {error}") from error
        for op in chain.ops:
            if isinstance(op, ops_image.PadImage) and geometry.height_width(op.size) != side:
                raise ValueError(
                    f"config.tasks.{name}.{field}: pad_image({op.size}) makes images of "
                    f"{geometry.height_width(op.size)} pixels and config.model.image_size is "
                    f"{side}; change all sizes in this text as well, or choose the variant of the "
                    "config with size=PIXELS"
                )
            if (
                field == "train_ops"
                and isinstance(op, ops_objects.PadObjects)
                and op.n > _instances(section, op.n)
            ):
                raise ValueError(
                    f"config.tasks.{name}.{field}: pad_objects({op.n}) makes more objects than "
                    f"config.tasks.{name}.max_instances={section.max_instances}; lower the "
                    "numbers in this text as well, or choose the variant of the config with "
                    "slots=NUMBER"
                )


def _instances(section: ml_collections.ConfigDict, default: int) -> int:
    """Objects per image that a task takes; `default` for a task that reads none."""
    return section.max_instances if "max_instances" in section else default
