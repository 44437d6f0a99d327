"""What a plan says is what the compiled step is."""

import jax
import ml_collections
import pytest

from benchmarks import scaling
from pix2seq_jax import plan as command
from pix2seq_jax.experiment import feeds, plan, plan_decoding, resolve
from pix2seq_jax.training import sharding
from tests.helpers import small


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nothing")  # no data are opened
    return plan.assumed(small.config("multitask.py:shapes", folder))


@pytest.fixture(scope="module")
def two_tasks(config):
    """Half of what four tasks take to compile."""
    return resolve.select_tasks(config, ["detection", "captioning"])


def test_what_data_would_decide_is_assumed(config):
    assert config.vocab.num_classes == plan.ASSUMED["classes"]
    assert config.tasks.keypoints.num_keypoints == plan.ASSUMED["keypoints"]
    assert config.vocab.text_size == config.data.text_pieces
    assert config.model.vocab_size == config.vocab.size > 0


def test_what_is_assumed_can_be_said_by_flags(config, tmp_path):
    fresh = small.config("multitask.py:shapes", tmp_path)
    line = plan.assumptions(fresh)
    flags = dict(flag.split("=") for flag in line.split() if flag.startswith("--config."))
    fresh.update_from_flattened_dict(
        {name.removeprefix("--config."): int(value) for name, value in flags.items()}
    )
    assert plan.assumptions(fresh).endswith("assumed: nothing")
    assert plan.assumed(fresh).to_dict() == config.to_dict() | {"data": fresh.data.to_dict()}


def test_data_parallelism_adds_every_gradient_once(two_tasks):
    made = plan.plan(two_tasks, sharding.make_mesh({"data": 8}))
    moments = 2
    assert 0 <= made.state - (1 + moments) * 4 * made.parameters < 1000  # and a few counters
    assert made.sent.keys() == {"all-reduce"}
    assert made.sent["all-reduce"] == pytest.approx(2 * 7 / 8 * 4 * made.parameters, rel=0.01)
    # What docs/scaling.md is computed from.
    assert made.sent["all-reduce"] == pytest.approx(scaling.sent(4 * made.parameters, 8), rel=0.01)
    assert made.images == sum(feeds.batch_sizes(two_tasks).values()) and made.activations > 0
    seconds = made.seconds(plan.CHIPS["v5e"])
    assert seconds["arithmetic"] == made.flops / 197e12
    assert seconds["collectives"] == made.sent["all-reduce"] / 100e9


def test_beyond_a_node_a_part_goes_over_the_network():
    chip, size = plan.CHIPS["h100"], 8e9
    sent = [scaling.sent(size, devices) for devices in (8, 64)]
    assert chip.exchange(sent[0], 8) == sent[0] / 450e9
    # Eight nodes: each device sends its eighth of the array between them.
    between = scaling.sent(size / 8, 8) / 50e9
    assert chip.exchange(sent[1], 64) == pytest.approx(sent[0] / 450e9 + between)


def test_tasks_that_share_a_batch_count_as_one_sequence_an_image(two_tasks):
    mixed = two_tasks.copy_and_resolve_references()
    mixed.train.mixing = "data"
    tasks = resolve.make_tasks(mixed)
    trained, images = feeds.trained_tasks(mixed, tasks), feeds.images_per_step(mixed)
    (row,) = trained.values()
    assert feeds.rows_of(images, trained) == dict.fromkeys(images, row)


def test_fsdp_keeps_a_part_of_the_state(two_tasks):
    whole = plan.plan(two_tasks, sharding.make_mesh({"data": 1}, devices=jax.devices()[:1]))
    cut = plan.plan(two_tasks, sharding.make_mesh({"fsdp": 8}))
    assert cut.parameters == whole.parameters and not whole.sent
    assert cut.state < 0.2 * whole.state
    assert cut.flops == whole.flops / 8
    assert cut.sent["all-gather"] > 0


def test_a_cut_batch_needs_less_to_be_decoded(tmp_path):
    """The caches of keys and values alone are a lower bound."""
    config = plan.assumed(small.config("segmentation.py:shapes", tmp_path))
    one = sharding.make_mesh({"data": 1}, devices=jax.devices()[:1])
    whole = plan_decoding.decoding(config, one)
    cut = plan_decoding.decoding(config, sharding.make_mesh({"data": 8}))
    assert whole.keys() == {"segmentation"}
    task, model = resolve.make_tasks(config)["segmentation"], resolve.make_model(config)
    rows = whole["segmentation"].rows
    sequences = rows * config.tasks.segmentation.num_samples
    assert rows > 0 and rows % 8 == 0
    caches = 2 * 4 * model.dec_layers * model.dec_dim * sequences * task.max_len
    for name in whole:
        assert cut[name].memory == whole[name].memory / 8
        assert cut[name].results < whole[name].results
        assert cut[name].temporaries < whole[name].temporaries
    assert whole["segmentation"].temporaries > caches


def test_the_flag_knows_every_chip():
    assert set(command.CHIPS) == {*plan.CHIPS, "cpu"}


@pytest.mark.parametrize("mesh", ["data", "data=0", "data=-1", "data=2,fsdp=x"])
def test_a_mesh_that_cannot_be_read_is_refused(mesh, config):
    with pytest.raises(ValueError, match=f"--mesh={mesh}: give axes and sizes, as in data=4,"):
        command.call(config, mesh.split(","), "v5e", False, False)


def test_a_mesh_is_given_once(config):
    with pytest.raises(ValueError, match="--mesh=data=2,data=4: data is given twice"):
        command.call(config, ["data=2", "data=4"], "v5e", False, False)
    config = ml_collections.ConfigDict(config.to_dict())
    config.mesh.fsdp = 2
    with pytest.raises(ValueError, match=r"config.mesh has .*'fsdp': 2.*give it by --mesh"):
        command.call(config, ["data=2"], "v5e", False, False)
