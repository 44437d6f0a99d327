"""The models against arrays recorded from the official implementation, in float32 on the CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2seq_jax.models.backbones.vit import VitBackbone
from tests.helpers import golden_import

pytestmark = pytest.mark.usefixtures("optimised")


@pytest.fixture(scope="module", params=["vit_tiny", "resnet_tiny", "resnet_c4_tiny"])
def golden(request, golden_dir):
    """One of the three recorded models."""
    return golden_import.load(golden_dir / request.param)


def test_memory_and_logits(golden):
    model, variables, io = golden
    memory = jax.jit(lambda v, x: model.apply(v, x, method="encode"))(variables, io["images"])
    np.testing.assert_allclose(memory, io["encoded"], atol=1e-4, rtol=0)
    logits = model.apply(variables, memory, io["seq"], method="decode")
    np.testing.assert_allclose(logits, io["logits"], atol=1e-4, rtol=0)
    multi = model.apply(variables, memory, io["seq_multi"], method="decode")
    assert multi.shape == (2, 3, 7, 420)
    np.testing.assert_allclose(multi.reshape(6, 7, 420), io["logits_multi"], atol=1e-4, rtol=0)


def test_parameter_count(golden):
    _, variables, io = golden
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == io["param_count"]


def test_gradient_of_every_variable(golden):
    model, variables, io = golden

    def loss(params):
        logits = model.apply({**variables, "params": params}, io["images"], io["seq"])
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), io["target"][..., None], axis=-1)[
            ..., 0
        ]
        return jnp.sum(losses * io["token_weights"]) / (jnp.sum(io["token_weights"]) + 1e-9)

    value, grads = jax.jit(jax.value_and_grad(loss))(variables["params"])
    np.testing.assert_allclose(value, io["loss/xent"], rtol=1e-5)
    own = "vit" if isinstance(model.backbone, VitBackbone) else "rest"
    norms = golden_import.gradient_norms(grads, own)
    recorded = {
        name.removeprefix("grad_l2/"): io[name] for name in io if name.startswith("grad_l2/")
    }
    assert norms.keys() == recorded.keys()
    for name, norm in norms.items():
        # Biases of keys do not change the softmax: their gradients are rounding errors.
        np.testing.assert_allclose(norm, recorded[name], rtol=1e-3, atol=1e-6, err_msg=name)
    total = np.sqrt(sum(norm**2 for norm in norms.values()))
    np.testing.assert_allclose(total, io["grad_global_norm"], rtol=1e-3)
