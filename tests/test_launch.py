"""What the launchers would run, by their --dry-run, and what they are written in.
`tests/test_processes.py` runs `local_pod.sh`."""

import math
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from pix2seq_jax import main

ROOT = Path(__file__).parent.parent
FLAGS = ("--config=detection.py:shapes", "--workdir=/shared/a run")
SCRIPTS = sorted([*ROOT.glob("launch/*.sh"), ROOT / "launch" / "slurm.sbatch"])


def lines_of(script: str, *arguments: str, **variables: str) -> list[str]:
    """What a script prints."""
    command = ["bash", f"launch/{script}", *arguments]
    options = {"cwd": ROOT, "env": os.environ | variables, "capture_output": True, "text": True}
    return subprocess.run(command, check=True, **options).stdout.splitlines()


def test_every_process_of_this_machine_is_told_of_the_others():
    lines = lines_of("local_pod.sh", "--dry-run", "3", *FLAGS, PORT="1234", LOGS="/logs")
    assert len(lines) == 3
    for number, line in enumerate(lines):
        job = f"--coordinator=127.0.0.1:1234 --num_processes=3 --process_id={number}"
        assert f"python -m pix2seq_jax.main {FLAGS[0]}" in line and job in line
        assert line.endswith(f"> /logs/process-{number}.log")


def test_slurm_tells_the_others_itself():
    (line,) = lines_of("slurm.sbatch", "--dry-run", *FLAGS)
    assert line.startswith("srun --kill-on-bad-exit=1 python -m pix2seq_jax.main --config=")
    assert line.endswith(" --distributed")


def run_with(folder: Path, program: str, text: str, *command: str, **variables: str):
    """What a launcher does where a program that is not on this machine is a shell script."""
    file = folder / program
    file.write_text(f"#!/bin/bash\n{text}")
    file.chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"} | variables
    options = {"cwd": ROOT, "env": environment, "capture_output": True, "text": True}
    return subprocess.run(["bash", *command], check=False, **options)


def test_the_process_of_a_node_uses_all_its_gpus(tmp_path):
    variables = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_GPUS_ON_NODE": "4"}
    text = 'echo "$JAX_LOCAL_DEVICE_IDS $*"'
    done = run_with(tmp_path, "srun", text, "launch/slurm.sbatch", *FLAGS, **variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("0,1,2,3 --kill-on-bad-exit=1 python -m pix2seq_jax.main")


@pytest.mark.parametrize("code, runs, said", [(0, 1, ""), (2, 3, "failed three times")])
def test_a_slice_is_not_paid_for_when_there_is_nothing_to_run(tmp_path, code, runs, said):
    calls = tmp_path / "calls"
    text = f"""
      echo "$*" >> {calls}
      case "$*" in
        *describe*) [ -e {tmp_path}/made ] && echo ACTIVE || {{ echo NOT_FOUND >&2; exit 1; }} ;;
        *create*) touch {tmp_path}/made ;;
        *pix2seq_jax.main*) exit {code} ;;
      esac"""
    command = ("launch/tpu_pod.sh", "babysit", *FLAGS)
    done = run_with(tmp_path, "gcloud", text, *command, WAIT="0")
    assert done.returncode == (1 if said else 0) and said in done.stderr
    lines = calls.read_text().splitlines()
    assert sum("pix2seq_jax.main" in line for line in lines) == runs
    assert "create" in lines[1] and "delete" in lines[-1]


def test_a_slice_is_requested_set_up_used_and_deleted():
    variables = {"NAME": "mine", "ZONE": "here", "TYPE": "v6e-16", "PROJECT": "ours"}
    lines = lines_of("tpu_pod.sh", "--dry-run", "babysit", *FLAGS, **variables)
    # The words of each command that are not its options.
    calls = [[word for word in line.split()[:6] if word[0] != "-"][:5] for line in lines]
    assert [call[4] for call in calls if call[:2] == ["gcloud", "compute"]] == [
        "create", "scp", "ssh", "ssh", "delete",
    ]  # fmt: skip
    assert "--accelerator-type=v6e-16" in lines[0] and "--spot" in lines[0]
    assert "--spot" not in lines_of("tpu_pod.sh", "--dry-run", "create", SPOT="0")[0]
    for line in lines:
        assert not line.startswith("gcloud") or "--zone=here --project=ours" in line
    # A space in a flag reaches the hosts within it.
    assert "--distributed" in lines[-2] and r"/shared/a\\\ run" in lines[-2]


# The fields of jobset.x-k8s.io/v1alpha2 (kubernetes-sigs/jobset, jobset_types.go).
JOBSET = "replicatedJobs network successPolicy failurePolicy startupPolicy suspend coordinator"
JOBSET += " managedBy ttlSecondsAfterFinished volumeClaimPolicies"
FAILURE_POLICY = "maxRestarts restartStrategy rules"
REPLICATED_JOB = "name groupName template replicas dependsOn"


def test_the_job_set_has_no_field_that_is_not_known():
    spec = yaml.safe_load((ROOT / "launch" / "gke_jobset.yaml").read_text())["spec"]
    (jobs,) = spec["replicatedJobs"]
    for part, known in (
        (spec, JOBSET), (spec["failurePolicy"], FAILURE_POLICY), (jobs, REPLICATED_JOB),
    ):  # fmt: skip
        assert part and not set(part) - set(known.split())
    assert isinstance(spec["failurePolicy"]["maxRestarts"], int)


def test_hosts_of_a_cluster_are_those_of_the_slice():
    job = yaml.safe_load((ROOT / "launch" / "gke_jobset.yaml").read_text())
    assert job["apiVersion"] == "jobset.x-k8s.io/v1alpha2" and job["kind"] == "JobSet"
    (hosts,) = job["spec"]["replicatedJobs"]
    spec = hosts["template"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    sides = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert spec["parallelism"] == spec["completions"]
    assert spec["parallelism"] * chips == math.prod(int(side) for side in sides)
    assert container["command"] == ["python", "-m", "pix2seq_jax.main"]
    flags = {f"--{flag.name}" for flag in main.FLAGS}
    assert {argument.partition("=")[0] for argument in container["args"]} <= flags


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck")
@pytest.mark.parametrize("script", SCRIPTS, ids=[script.name for script in SCRIPTS])
def test_shellcheck_finds_nothing(script):
    command = ["shellcheck", "--external-sources", str(script)]
    check = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stdout
