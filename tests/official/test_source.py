"""What a warm start may come from, and the folders that it refuses."""

import shutil

import pytest

from pix2seq_jax import import_tf
from pix2seq_jax.official.source import read
from pix2seq_jax.training import sharding


def refused(init_from, *parts):
    with pytest.raises(ValueError) as caught:
        read(str(init_from), sharding.make_mesh())
    for part in (f"config.init_from={str(init_from)!r}", *parts):
        assert part in str(caught.value)


def test_folders_that_are_no_source(golden_dir, tmp_path):
    refused(tmp_path / "gone", "gone is not a folder")
    refused(tmp_path, "neither the workdir of a run", "ckpt-*.index", "WORKDIR@STEP")
    refused(f"{golden_dir / 'vit_tiny'}@3", "@STEP is for a workdir")
    refused("gs://pix2seq-no-such-bucket/model", "cannot be read")
    shutil.copy(golden_dir / "vit_tiny" / "ckpt-0.index", tmp_path)
    refused(tmp_path, "config.json does not exist")
    workdir = tmp_path / "run"
    import_tf.run(golden_dir / "vit_tiny", workdir)
    refused(f"{workdir}@7", "has no checkpoint of step 7", "steps there: [0]")
    refused(workdir / "checkpoints" / "0", "neither the workdir of a run")
    (workdir / "checkpoints" / "0" / "SHA256SUMS").write_text("0  state/x\n")
    refused(workdir, "every checkpoint in", "is damaged")
    refused(f"{workdir}@0", "step 0 cannot be used", "in SHA256SUMS", "steps there: [0]")
    shutil.rmtree(workdir / "checkpoints")
    refused(workdir, "no checkpoint in")
