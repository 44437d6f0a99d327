"""Learning-rate schedules and optimizers, equal to those of the published runs."""

import difflib
import math
import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from pix2seq_jax.training import muon, trees

SCALINGS = ("none", "linear", "sqrt")
SCHEDULES = ("linear", "cosine", "cosine@RATE", "exp@RATE", "none")
OPTIMIZERS = ("adamw", "lamb", "momentum", "muon")
# The settings that each of them has beside those of all.
_ADAM = ("beta1", "beta2", "eps", "weight_decay", "decay")
SETTINGS = {"adamw": _ADAM, "lamb": _ADAM, "momentum": ("momentum",), "muon": _ADAM}

# Which parameters decay. The papers' runs decayed kernels only, the later release everything. The
# release's LAMB leaves out biases and the scales of norms ("weights"), a later one embeddings and
# positions too ("kernels").
DECAY = {"kernels": r"kernel$", "weights": r"^(?!.*(bias|scale)$)", "all": ""}
# parameters that hold those of all layers of a stack, along their first axis
STACKED = r"(^|/)(layers|cross)/"
# the encoder: its layers, what stands above them, and what stands below (stem, positions)
ENCODER, ENCODER_LAYERS, ENCODER_TOP = (
    r"^(stem|image_encoder)/",
    r"^image_encoder/layers/",
    r"^image_encoder/norm/",
)


def schedule(
    name: str,
    *,
    base: float,
    batch_size: int,
    total: int,
    scaling: str = "none",
    warmup: int = 0,
    tail: int = 0,
    end_factor: float = 0.0,
) -> optax.Schedule:
    """Learning rate as a function of the step i32[] -> f32[]: linear warm-up from 0 to the peak,
    then decay.

    The decay takes `total - warmup - tail` steps. `linear` and `cosine` then stay at `end_factor *
    peak`; `cosine@r` follows r of the cosine's way down and `exp@r` falls to r times the peak in
    that time, and both go on after it.

    Args:
        name: one of SCHEDULES.
        base: learning rate before scaling.
        batch_size: images of one global batch, for the scaling.
        total: steps of the whole run.
        scaling: peak = base ("none"), base * batch / 256 ("linear"), base * sqrt(batch) ("sqrt").
        warmup: steps of the warm-up; step 0 then has learning rate 0.
        tail: steps at the end at the lowest rate.
        end_factor: lowest rate of the linear and cosine schedules as a part of the peak.

    Raises:
        ValueError: unknown name or scaling, or no step left to decay in.
    """
    peak = _scaled(base, batch_size, scaling)
    kind, _, number = name.partition("@")
    if name not in ("linear", "cosine", "none") and not (number and kind in ("cosine", "exp")):
        raise ValueError(f"schedule.name={name!r}: use one of {SCHEDULES}")
    rate = _rate(name, number) if number else 1.0
    steps = total - warmup - tail
    if steps <= 0:
        raise ValueError(
            f"optim: warm-up {warmup} + tail {tail} leave no step of {total} to decay in; "
            "train longer or shorten them"
        )

    def factor(progress):
        clipped = jnp.clip(progress * rate, 0.0, 1.0)
        if kind == "linear":
            return 1.0 - (1.0 - end_factor) * clipped
        if kind == "cosine":
            return end_factor + (1.0 - end_factor) * 0.5 * (1.0 + jnp.cos(jnp.pi * clipped))
        return rate**progress if kind == "exp" else jnp.ones_like(progress)

    def at(step):
        step = jnp.asarray(step, jnp.float32)
        return peak * jnp.where(
            step < warmup, step / max(warmup, 1), factor((step - warmup) / steps)
        )

    return at


def _scaled(base: float, batch_size: int, scaling: str) -> float:
    if scaling not in SCALINGS:
        raise ValueError(f"schedule.scaling={scaling!r}: use one of {SCALINGS}")
    # The published sqrt rule has no reference batch: sqrt(batch), not sqrt(batch / 256).
    return base * {"none": 1.0, "linear": batch_size / 256, "sqrt": math.sqrt(batch_size)}[scaling]


def _rate(name: str, number: str) -> float:
    try:
        return float(number)
    except ValueError:
        raise ValueError(
            f"schedule.name={name!r}: use one of {SCHEDULES}, RATE a number as in 'exp@0.1'"
        ) from None


def make(
    name: str,
    learning_rate: optax.ScalarOrSchedule,
    *,
    beta1: float = 0.9,
    beta2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.05,
    decay: str = "kernels",
    momentum: float = 0.9,
    clip: float = 0.0,
    layer_decay: float = 1.0,
    encoder_rate: float = 1.0,
    encoder_layers: int = 0,
    pretrained: str = "",
) -> optax.GradientTransformation:
    """Optimizer of the published runs behind an optional clip by the global norm of all gradients.

    Args:
        name: "adamw" (Loshchilov & Hutter 2019), "lamb" (You et al. 2020; parameters that do not
            decay are not scaled by the trust ratio), "momentum" (Nesterov, no decay; the learning
            rate of a step stays with its gradient) or "muon" (see muon.scale_by_muon; what is no
            matrix moves as by "adamw"). The release's "adam" is "adamw" with a weight_decay of 0.
        learning_rate: number, or a `schedule`.
        decay: which parameters decay, one of DECAY.
        clip: largest global norm; 0 or less turns clipping off.
        layer_decay: each encoder layer learns at this times the rate of the next one, see
            `rate_factors`.
        encoder_rate: rate of the pretrained part of the encoder as a part of that of the rest.
        encoder_layers: how many layers the encoder has; for layer_decay.
        pretrained: regex of that part, "" for the whole encoder; for encoder_rate.

    Raises:
        ValueError: unknown name or decay.
    """
    mask, rate = _decay_mask(decay), optax.scale_by_learning_rate(learning_rate)
    if name in ("adamw", "muon"):
        scale = _scale_by_adam(beta1, beta2, eps)
        if name == "muon":
            scale = muon.scale_by_muon(scale, STACKED)
        chain = [scale, optax.add_decayed_weights(weight_decay, mask), rate]
    elif name == "lamb":
        chain = [
            optax.scale_by_adam(beta1, beta2, eps),
            optax.add_decayed_weights(weight_decay, mask),
            optax.masked(_scale_by_trust_ratio(), mask),
            rate,
        ]
    elif name == "momentum":
        chain = [rate, optax.trace(momentum, nesterov=True)]
    else:
        raise ValueError(f"optim.name={name!r}: use one of {OPTIMIZERS}")
    # Always one link of the chain, so that a run may change its mind about clipping and still
    # resume.
    clipping = optax.clip_by_global_norm(clip) if clip > 0 else optax.identity()
    tx = optax.chain(clipping, *chain)
    if layer_decay == encoder_rate == 1:
        return tx

    def update(updates, state, params):
        updates, state = tx.update(updates, state, params)
        rates = layer_decay, encoder_rate, encoder_layers, pretrained
        factors = rate_factors(params, *rates)
        return jax.tree.map(lambda u, f: u * f, updates, factors), state

    # Around the chain, not a link of it, so that a run may change the rates and still resume.
    return optax.GradientTransformation(tx.init, update)


def rate_factors(
    params: trees.Tree,
    layer_decay: float,
    encoder_rate: float,
    layers: int,
    pretrained: str = "",
) -> trees.Tree:
    """What the learning rate of each parameter is multiplied by: f32[], or f32[L,1,…] for the
    stacked layers of the encoder.

    In the manner of BEiT (Bao et al. 2022, appendix): layer i of L, counted from 0, learns at
    layer_decay ** (L - i), what stands below the layers (stem or ResNet, positions, class token) at
    layer_decay ** (L + 1), the last norm of the encoder at 1. Those of them in whose names the
    regex `pretrained` is found learn at `encoder_rate` times that. The rest of the model has the
    factor 1.
    """

    def factor(name, leaf):
        if not re.search(ENCODER, name):
            return jnp.ones(())
        rate = encoder_rate if re.search(pretrained, name) else 1.0
        if re.search(ENCODER_LAYERS, name):
            powers = rate * layer_decay ** (layers - jnp.arange(leaf.shape[0]))
            return powers.reshape(-1, *(1,) * (leaf.ndim - 1))  # [L,1,…]
        power = 0 if re.search(ENCODER_TOP, name) else layers + 1
        return jnp.asarray(rate * layer_decay**power)

    leaves = [factor(name, leaf) for name, leaf in trees.flatten_names(params).items()]
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def check_frozen(names: Sequence[str], pattern: str) -> None:
    """Refuses a regex of frozen parameters that does not leave some frozen and some trained.

    Args:
        names: of all parameters, as in "image_encoder/norm/scale".
        pattern: searched for in each name; "" freezes none.

    Raises:
        ValueError: with names that are near.
    """
    frozen = [name for name in names if pattern and re.search(pattern, name)]
    if not pattern or 0 < len(frozen) < len(names):
        return
    parts = dict.fromkeys(
        "/".join(name.split("/")[:depth]) for depth in (1, 2, 3, 9) for name in names
    )
    near = difflib.get_close_matches(re.sub(r"[^\w/]", "", pattern), parts, n=3, cutoff=0.4)
    first = [name for name in parts if "/" not in name]
    which = "all parameters" if frozen else "no parameter"
    hint = f"near it are {near}" if near and not frozen else f"their names begin with {first}"
    raise ValueError(
        f"config.optim.frozen={pattern!r} matches {which}; {hint}, all of them are in "
        "parameters.txt of a workdir; give a regex of some of them, or ''"
    )


def _decay_mask(decay: str):
    if decay not in DECAY:
        raise ValueError(f"optim.decay={decay!r}: use one of {tuple(DECAY)}")
    return lambda params: trees.mask_by_regex(params, DECAY[decay])


def _scale_by_adam(beta1: float, beta2: float, eps: float) -> optax.GradientTransformation:
    """Adam whose epsilon stands beside the uncorrected second moment, as in the published code.

    That is "epsilon hat" at the end of section 2 of Kingma & Ba (2015). optax has the other form,
    which moves the parameters of tiny gradients (embeddings of unlikely words) further in the first
    steps.
    """

    def init(params):
        zeros = optax.tree.zeros_like
        return optax.ScaleByAdamState(
            count=jnp.zeros((), jnp.int32), mu=zeros(params), nu=zeros(params)
        )

    def update(updates, state, params=None):
        del params
        count = state.count + 1
        mu = optax.tree.update_moment(updates, state.mu, beta1, 1)
        nu = optax.tree.update_moment(updates, state.nu, beta2, 2)
        t = count.astype(jnp.float32)
        correction = jnp.sqrt(1.0 - beta2**t) / (1.0 - beta1**t)
        return (
            jax.tree.map(lambda m, v: correction * m / (jnp.sqrt(v) + eps), mu, nu),
            optax.ScaleByAdamState(count=count, mu=mu, nu=nu),
        )

    return optax.GradientTransformation(init, update)


def _scale_by_trust_ratio() -> optax.GradientTransformation:
    """LAMB's ratio of norms, of parameter to update; as optax has it, but for every layer of a
    stack by itself."""

    def scale(stacked, update, param):
        axes = tuple(range(1, param.ndim)) if stacked else None
        size, change = (jnp.sqrt(jnp.sum(x * x, axis=axes, keepdims=True)) for x in (param, update))
        return update * jnp.where(
            (size > 0) & (change > 0), size / jnp.where(change > 0, change, 1.0), 1.0
        )

    def update(updates, state, params):
        return jax.tree.map(scale, trees.mask_by_regex(params, STACKED), updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
