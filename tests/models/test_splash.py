"""The kernel for TPUs, interpreted, against the plain form, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seq_jax.models import attention
from pix2seq_jax.models.splash import splash


def value_and_gradients(attend, query, key, value, direction):
    def along(*inputs):
        out = attend(*inputs)
        return jnp.sum(out.astype(jnp.float32) * direction), out

    (_, out), grads = jax.jit(jax.value_and_grad(along, (0, 1, 2), has_aux=True))(query, key, value)
    return [out, *grads]


# (queries, keys): within one block, of several blocks, of whole rows.
@pytest.mark.parametrize(
    "causal,lengths", [(False, (70, 600)), (True, (520, 520)), (0, (128, 256))]
)
def test_splash_equals_plain(causal, lengths):
    shapes = [(2, 2, lengths[part], 16) for part in (0, 1, 1, 0)]
    inputs = [jax.random.normal(jax.random.key(n), shape) for n, shape in enumerate(shapes)]
    mask = jnp.tril(jnp.ones(lengths, bool)) if causal else None
    plain = value_and_gradients(lambda *x: attention.attend(*x, mask), *inputs)
    ours = value_and_gradients(lambda *x: splash(*x, causal, interpret=True), *inputs)
    for expected, found in zip(plain, ours, strict=True):
        assert found.shape == expected.shape and found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_it_is_chosen_for_long_sequences_of_wide_heads_on_a_tpu(monkeypatch):
    chosen = []
    monkeypatch.setattr(attention, "splash", lambda query, *_: chosen.append(query) or query)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    long, short = jnp.zeros((1, 1, 450, 64), jnp.bfloat16), jnp.zeros((1, 1, 9, 64), jnp.bfloat16)
    attention.attend_whole(long, long, long, kind="auto")
    assert len(chosen) == 1
    for query in (short, long.astype(jnp.float32), long[..., :32]):
        attention.attend_whole(query, query, query, kind="auto")
    with jax.set_mesh(jax.make_mesh((8,), ("model",))):
        attention.attend_whole(long, long, long, kind="auto")
        attention.attend_whole(long, long, long, kind="splash")  # in blocks
    assert len(chosen) == 1
