"""One process of a job on this machine: `python one_of_several_processes.py PORT COUNT INDEX MESH
FOLDER WORKDIR`.

Trains two steps of the shrunk detection config on one CPU device per process, evaluates, and leaves
metrics.jsonl.
"""

import json
import os
import sys

port, count, index, mesh, folder, workdir = sys.argv[1:]
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import jax  # noqa: E402

jax.config.update("jax_num_cpu_devices", 1)
if int(count) > 1:
    jax.distributed.initialize(
        f"127.0.0.1:{port}", int(count), int(index), initialization_timeout=60
    )

from pathlib import Path  # noqa: E402

from pix2seq_jax import train  # noqa: E402
from tests.helpers import small  # noqa: E402

config = small.config("detection.py:shapes", Path(folder), train__eval_steps=2)
config.mesh.update(json.loads(mesh))
train.run(config, workdir)
