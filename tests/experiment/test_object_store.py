"""A workdir in an object store is read by its address.

The store is a folder of this disk under the scheme disk://: what asks `pathlib` for such an address
finds nothing there.
"""

import os
from pathlib import PosixPath

import jax
import numpy as np
import pytest
from etils import epath
from etils.epath import register

import pix2seq_jax
from pix2seq_jax import train
from pix2seq_jax.experiment import checks, saved_run
from pix2seq_jax.official import source
from pix2seq_jax.training import sharding, trees
from tests.helpers import small

SCHEME = "disk://"


class DiskPath(PosixPath):
    """A path of this disk that is made from an address."""

    def __new__(cls, *parts):
        return super().__new__(PosixPath, *(os.fspath(part).replace(SCHEME, "") for part in parts))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A trained run with a text model."""
    folder = small.make_shapes(tmp_path_factory.mktemp("data") / "shapes")
    made = tmp_path_factory.mktemp("run")
    config = small.config("captioning.py:shapes", folder)
    train.run(config, made, evaluate_too=False)
    return made


@pytest.fixture
def address(workdir, monkeypatch):
    monkeypatch.setitem(register._URI_PREFIXES_TO_CLS, SCHEME, DiskPath)
    assert (
        epath.Path(f"{SCHEME}{workdir}").is_dir() and not PosixPath(f"{SCHEME}{workdir}").exists()
    )
    return f"{SCHEME}{workdir}"


def test_a_run_predicts_from_there(address, workdir):
    images = np.zeros((1, 64, 64, 3), np.uint8)
    there, here = pix2seq_jax.load(address), pix2seq_jax.load(workdir)
    texts = [predictor(list(images))[0].texts for predictor in (there, here)]
    assert texts[0] == texts[1] and texts[0]


def test_a_run_starts_from_there(address, workdir):
    mesh = sharding.make_mesh()
    there, here = source.read(f"{address}@2", mesh), source.read(str(workdir), mesh)
    assert there.text == here.text and there.text
    assert there.where == f"{address} step 2"
    assert jax.tree.all(jax.tree.map(np.array_equal, there.arrays, here.arrays))
    assert len(trees.flatten_names(there.arrays)) > 10


def test_a_run_is_not_written_there(address):
    config = saved_run.load_config(address)
    with pytest.raises(ValueError, match="is an address, and what is written goes to a folder"):
        checks.check(config, address, training=True)


def test_an_address_without_a_run_is_refused(address):
    with pytest.raises(ValueError, match="is not the workdir of a run"):
        saved_run.load_config(f"{address}/none")
