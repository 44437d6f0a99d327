"""The attention and the probabilities that are shown are those of the decoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seq_jax.decoding import looking
from pix2seq_jax.models.fixed_keys import CachedCrossAttention
from tests.helpers import four_tasks

MODEL = four_tasks.tiny(dec_layers=2)


@pytest.fixture(scope="module")
def given():
    """(variables, memory of two images, tokens of three sequences each, what is looked at)."""
    variables = {"params": four_tasks.initial(MODEL).params}
    # As initialised, attention is nearly uniform: no difference would be seen.
    variables = jax.tree.map(lambda x: 3 * x, variables)
    images = four_tasks.example(2, 3)["image"]
    memory = MODEL.apply(variables, images, method="encode")
    tokens = jax.random.randint(jax.random.key(1), (2, 3, 5), 101, 138)
    return variables, memory, tokens, looking.look(MODEL, variables, memory, tokens)


def test_logits_are_those_of_teacher_forcing(given):
    variables, memory, tokens, look = given
    logits = MODEL.apply(variables, memory, tokens, method="decode")
    np.testing.assert_allclose(look.logits, logits, rtol=1e-4, atol=1e-4)


def test_attention_gives_the_real_output_of_the_decoder(given):
    """What each cross-attention of the decoder returns, in the normal path, is the values weighed
    by the weights, and their mean is the map."""
    variables, memory, tokens, look = given
    cut = MODEL.cut_variables(variables)
    cross_kv = MODEL.apply(variables, memory, method="cross_kv")
    _, kept = MODEL.apply(
        cut,
        tokens,
        MODEL.empty_cache(6, 5),
        cross_kv,
        0,
        method="step",
        capture_intermediates=lambda module, _: (
            isinstance(module, CachedCrossAttention) or module.name == "query"
        ),
    )
    layers, maps = kept["intermediates"]["decoder"]["steps"], []
    for number, image in enumerate(cross_kv):
        own = layers[f"layer{number}"]["cross_attention"]
        (query,), (real,) = own["query"]["__call__"], own["__call__"]
        scores = jnp.einsum("bhtk,bhks->bhts", query, image.key) / query.shape[-1] ** 0.5
        weights = jax.nn.softmax(scores)
        out = cut["params"]["decoder"]["steps"][f"layer{number}"]["cross_attention"]["out"]
        attended = jnp.einsum("bhts,bhks->bhtk", weights, image.value)
        ours = jnp.einsum("bhtk,hkd->btd", attended, out["kernel"]) + out["bias"][None, None]
        np.testing.assert_allclose(ours.reshape(real.shape), real, rtol=1e-4, atol=1e-4)
        maps.append(weights.mean(axis=1))
    expected = (sum(maps) / len(maps)).reshape(2, 3, 5, -1)
    np.testing.assert_allclose(look.attention, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(look.attention.sum(-1), 1, atol=1e-5)
    assert look.attention.std(axis=-1).min() > 1e-4  # else anything would do
