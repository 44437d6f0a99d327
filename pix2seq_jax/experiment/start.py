"""Where the weights of a run come from.

In this order: the newest whole checkpoint of the workdir (resume), the model that was imported into
it (import_tf), another model as far as it fits (config.init_from, a warm start) or the encoder of
another library (config.init_encoder), scratch. The log says which ("weights: ...").
"""

from pathlib import Path

import jax
import ml_collections

from pix2seq_jax.experiment import resolve, saved_run
from pix2seq_jax.experiment.logs import log, phase
from pix2seq_jax.experiment.resolve import check_classes
from pix2seq_jax.official import transfer
from pix2seq_jax.pretrained import start as encoder_start
from pix2seq_jax.training import checkpoint
from pix2seq_jax.training import state as train_state

FROM_SCRATCH = (
    "from scratch, which takes long; --config.init_from=DIR would start from another run or a "
    "published checkpoint, --config.init_encoder=FILE from an encoder of another library"
)


def restore_or_start(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    saver: checkpoint.Checkpointer,
    meta: dict,
    model,
    tx,
    mesh: jax.sharding.Mesh,
) -> train_state.TrainState:
    """The state that a run goes on from. `meta` is what checkpoints will hold.

    Raises:
        ValueError: checkpoints or weights that are damaged or do not fit.
    """
    with phase("restore"):
        options = resolve.state_options(config)
        wanted = train_state.abstract_state(model, tx, mesh=mesh, **options)
        restored = saver.restore_latest(wanted)
    if restored:
        state, saved = restored
        check_classes(saved["category_names"], config, where=f"{workdir}/checkpoints")
        origin = f"resumed at step {int(state.step)}{passed_over(config)}"
    else:
        with phase("initialise"):
            state, origin = first_state(config, workdir, meta, model, tx, mesh)
            if isinstance(state, train_state.AveragedState):  # the weights may be other ones now
                state = train_state.with_average(state)
    log.info("weights: %s", origin)
    return state


def passed_over(config: ml_collections.ConfigDict) -> str:
    """For the log, where the workdir has weights of its own."""
    for name in ("init_from", "init_encoder"):
        if config[name]:
            return f"; config.{name}={config[name]!r} is ignored, it is for a new workdir"
    return ""


def first_state(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    meta: dict,
    model,
    tx,
    mesh: jax.sharding.Mesh,
) -> tuple[train_state.TrainState, str]:
    """(state of step 0, where its weights come from); the optimizer is fresh. `meta` is what
    checkpoints will hold."""
    options, rng = resolve.state_options(config), jax.random.key(config.seed)
    state = train_state.init_state(model, tx, rng, mesh=mesh, **options)
    if saved_run.is_imported(workdir):
        _, imported = saved_run.load_variables(workdir, config, model, mesh)
        state = state.replace(
            params=imported["params"], batch_stats=imported.get("batch_stats", {})
        )
        return state, "imported" + passed_over(config)
    if config.init_from:
        return transfer.start(state, config, workdir, mesh, text=meta.get("text_model"))
    if config.init_encoder:
        return encoder_start.start(state, config, workdir)
    return state, FROM_SCRATCH
