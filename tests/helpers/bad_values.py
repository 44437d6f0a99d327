"""What no config and no command line can mean: where, the value, and the remedy."""

from tests.helpers.refusals import LOADING

pytestmark = LOADING
CONFIG = "multitask.py:shapes"
RESNET_FIELDS = ("model.backbone.depth", "model.backbone.variant", "model.backbone.width")
WHOLE_1, WHOLE_0 = "give a whole number of at least 1", "give a whole number of at least 0"
NOT_NEGATIVE, ABOVE_0 = "give a finite number of at least 0", "give a finite number above 0"
SHARE, RATE = (
    "give a finite number of at least 0 and at most 1",
    "give a finite number of at least 0 and below 1",
)
TASKS = ("detection", "segmentation", "keypoints", "captioning")
# Flags by the words of the remedy: field -> values that are refused.
BY_RANGE = {
    WHOLE_1: {
        **{
            f"train.{name}": ("0", "-1")
            for name in ("batch_size", "accumulate", "repeats", "keep_latest")
        },
        **{
            f"train.{name}": ("0", "-5") for name in ("log_steps", "eval_steps", "checkpoint_steps")
        },
        **{
            f"model.{part}_{name}": ("0", "-2")
            for part in ("enc", "dec")
            for name in ("layers", "mlp", "heads")
        },
        **{f"tasks.{name}.max_instances": ("0", "-3") for name in TASKS[1:3]},
        **{f"tasks.{name}.num_samples": ("0",) for name in TASKS},
        **{f"tasks.{name}.objects": ("0", "-1") for name in ("segmentation", "keypoints")},
        **{
            f"tasks.captioning.{name}": ("0", "-1") for name in ("captions_per_image", "max_tokens")
        },
        **{
            "model.backbone.patch_size": ("0", "-8"),
            "eval.batch_size": ("0", "-1"),
            "mesh.fsdp": ("0", "-1"),
        },
        **{"mesh.model": ("0", "-1"), "train.steps": ("0", "-1", "2147483648")},
    },
    WHOLE_0: {
        "schedule.tail": ("-1",),
        **{
            f"eval.{name}": ("-1",) for name in ("step", "images", "images_in_training", "pictures")
        },
        **{
            f"tasks.{name}.{field}": ("-1",)
            for name in TASKS
            for field in ("batch_size", "eval_batch_size")
        },
        **{
            f"vocab.{name}": ("-1",)
            for name in ("size", "num_classes", "coord_shift", "text_shift", "text_size")
        },
        **{"model.max_seq_len": ("-1",), "model.vocab_size": ("-5",), "train.profile_at": ("-1",)},
        **{
            "tasks.keypoints.num_keypoints": ("-1",),
            "seed": ("-1", "2147483648", "99999999999999999999"),
        },
        **{"data.workers": ("-1", "100000"), "data.slots": ("-1",)},
        "data.text_pieces": ("-1", "1000000000"),
        **{"tasks.detection.max_instances": ("-3",)},
    },
    "or a share of train.steps below 1": {"schedule.warmup": ("-1", "1.5", "nan", "inf")},
    "give a regular expression": {"optim.frozen": ("(", "*x")},
    "give a finite number above 0 and at most 1": {"optim.layer_decay": ("0", "-1", "1.1", "nan")},
    "give a whole number of at least 2": {"vocab.num_bins": ("1", "0", "-5")},
    "give a whole number of at least 3": {"tasks.segmentation.max_points": ("2", "0", "-1")},
    "give an even whole number of at least 2": {
        f"model.{part}_dim": ("0", "-16", "7") for part in ("enc", "dec")
    },
    NOT_NEGATIVE: {
        **{f"optim.{name}": ("-0.1", "nan", "inf") for name in ("weight_decay", "clip")},
        **{
            f"tasks.{name}.eos_weight": ("-1", "nan")
            for name in ("detection", "segmentation", "captioning")
        },
        **{f"tasks.{name}.mix.data": ("-1", "nan", "inf") for name in TASKS[:2]},
        **{
            "schedule.base": ("-1e-3", "nan", "inf", "-inf"),
            "tasks.detection.noise_weight": ("-1", "nan"),
        },
        **{"tasks.keypoints.invisible_weight": ("-0.5", "nan")},
        **{"data.cache": ("-1", "nan", "inf")},
    },
    ABOVE_0: {"optim.eps": ("0", "-1e-8", "nan"), "optim.encoder_rate": ("0", "-1", "nan")},
    RATE: {
        "train.ema": ("-0.1", "1", "nan"),
        **{f"optim.{name}": ("-0.1", "1", "1.5", "nan") for name in ("beta1", "beta2", "momentum")},
        **{
            f"model.{name}": ("-0.1", "1", "nan")
            for name in ("drop_path", "drop_units", "drop_att")
        },
    },
    SHARE: {
        **{f"tasks.{name}.weight": ("-0.1", "1.5", "nan") for name in TASKS},
        **{
            "schedule.end_factor": ("-0.1", "1.1", "nan"),
            "eval.score_threshold": ("-0.1", "1.5", "nan"),
        },
        **{"tasks.captioning.input_drop": ("-0.1", "1.1", "nan")},
        **{"tasks.keypoints.points_score_weight": ("-0.1", "1.1", "nan")},
    },
    "above 0 and at most 1": {"tasks.segmentation.mask_threshold": ("0", "-1", "1.1", "nan")},
    "give a finite number of at least 0.03125": {"model.backbone.width": ("0", "-1", "nan", "inf")},
    "give a finite number": {f"tasks.{name}.eos_bias": ("nan", "inf") for name in TASKS},
    "give one of": {
        **{"model.backbone.name": ("vgg", "ViT"), "model.backbone.variant": ("dc4", "")},
        **{"model.backbone.depth": ("51", "0"), "model.dtype": ("float16", "int8")},
        **{
            "model.pos_encoding": ("sine",),
            "model.dec_pos_encoding": ("none",),
            "model.proj_mode": ("mlp2", ""),
        },
        **{
            "model.attention": ("flash",),
            "model.cache_dtype": ("int4", "float16"),
            "model.kernel_dtype": ("int4", "bfloat16"),
            "model.attention_init": ("zeros",),
            "data.source": ("tfds", ""),
            "data.bad_images": ("skip", ""),
        },
        **{"data.bad_annotations": ("replace",), "data.missing_images": ("ignore",)},
        **{
            "schedule.name": (
                "step",
                "exp@",
                "exp@x",
                "exp@0",
                "cosine@-1",
                "linear@2",
                "exp@nan",
                "cosine@1e999",
            )
        },
        **{
            "schedule.scaling": ("log", ""),
            "optim.name": ("sgd", "adam", ""),
            "optim.decay": ("biases",),
        },
        **{
            "train.mixing": ("both", ""),
            "train.loss": ("mse", "xent@1", "xent@x", "focal@-1", "focal", "logistic@2"),
        },
        **{"tasks.detection.class_corruption": ("all", "")},
    },
    "give a text that is not empty": {
        **{f"tasks.{name}.train_ops": ("", " ") for name in TASKS},
        **{f"tasks.{name}.eval_ops": ("",) for name in TASKS},
        **{f"tasks.{name}.sampler": ("",) for name in TASKS},
        **{"eval.boxes": ("", " ")},
    },
    "give a number of devices, or -1 for the rest": {"mesh.data": ("0", "-2")},
    "give two whole numbers of at least 1": {
        "model.image_size": ("(0,48)", "(48,)", "(48,48,3)", "(-48,48)")
    },
    "give a tuple of numbers above 0": {
        "tasks.keypoints.sigmas": ("(0.1,0.0)", "(-0.1,)", "(0.1,'x')")
    },
    "give a tuple of different whole numbers": {
        "data.label_ids": ("(1,-2)", "(1,1.5)", "('a',)", "(1,1)")
    },
    "give pairs of names": {"data.flip_pairs": ("('a','b')", "(('a',),)", "((1,2),)")},
    # Of a kind that the field is not: refused while flags are parsed.
    "give a value like the one in the config file": {
        "train.steps": ("abc", "1.5", "", "None", "1e3"),
        "optim.beta1": ("a", ""),
        "data.check_images": ("perhaps", "2"),
        "mesh": ("3",),
    },
}
# (arguments, what must be named, remedy)
OTHERS = [
    # What fields must agree on.
    ("model.enc_heads=3", "model.enc_dim=16", "model.enc_heads=3; give a multiple"),
    ("model.dec_heads=5", "model.dec_dim=16", "model.dec_heads=5; give a multiple"),
    ("model.enc_mlp=33", "model.enc_mlp=33", "give a multiple"),
    ("model.dec_mlp=20", "model.dec_mlp=20", "give a multiple"),
    (
        "model.backbone.patch_size=7;model.image_size=(48,48)",
        "model.backbone.patch_size=7",
        "change the patch size",
    ),
    (
        "model.backbone.patch_size=1000000000;model.image_size=(48,48)",
        "backbone.patch_size=1000000000",
        "change the patch size",
    ),
    ("optim.frozen=^encoder/", "config.optim.frozen='^encoder/' matches no", "image_encoder"),
    ("optim.frozen=.", "config.optim.frozen='.' matches all parameters", "give a regex of some"),
    ("schedule.warmup=2", "config.schedule.warmup=2", "train longer or shorten"),
    ("schedule.tail=5", "config.schedule.tail=5", "train longer or shorten"),
    ("train.batch_size=12", "config.train.batch_size", "use 8 or 16"),
    ("tasks.keypoints.batch_size=9", "config.tasks.keypoints.batch_size", "use 8 or 16"),
    ("train.accumulate=3", "batch_size: batch size 8 is not a multiple of 24", "use 24 or 48"),
    ("train.repeats=3", "config.train.repeats=3", "change one of them"),
    ("tasks.detection.weight=0.9", "the weights of the tasks", "set config.tasks.NAME.weight"),
    (
        "tasks.detection.mix.data=0",
        "config.tasks.detection.mix",
        "at least one share must be above 0",
    ),
    ("mesh.fsdp=3", "'fsdp': 3", "give sizes that do"),
    ("mesh.model=16", "'model': 16", "give sizes that do"),
    ("mesh.data=3", "'data': 3", "give sizes that do"),
    ("vocab.coord_shift=101", "coordinate tokens", "raise vocab.coord_shift"),
    ("vocab.coord_shift=50", "special tokens", "raise vocab.coord_shift"),
    ("vocab.size=120", "vocab.size=120", "raise vocab.size"),
    ("train.best_metric=AP", "config.train.best_metric='AP'", "give one of"),
    ("init_from=/nowhere/run", "config.init_from='/nowhere/run'", "give a workdir"),
    ("init_encoder=/nowhere/vit.npz", "config.init_encoder='/nowhere/vit.npz'", "give a file"),
    ("init_encoder_pixels=gray", "config.init_encoder_pixels='gray'", "'imagenet'"),
    ("init_from=/nowhere/run@30", "config.init_from='/nowhere/run@30'", "give a workdir"),
    ("tasks.detection.train_ops=decode|melt", "config.tasks.detection.train_ops", "the ops are"),
    (
        "tasks.detection.eval_ops=decode|resize(",
        "config.tasks.detection.eval_ops",
        "not of the form op|op",
    ),
    (
        "tasks.keypoints.train_ops=decode|pad_image(48, 0.3, 7)",
        "config.tasks.keypoints.train_ops",
        "takes (size, value)",
    ),
    (
        "tasks.captioning.eval_ops=decode|resize(x y)",
        "config.tasks.captioning.eval_ops",
        "not of the form",
    ),
    # A vocabulary that is too small for the data.
    ("vocab.num_classes=1", "config.vocab.num_classes=1", "give 7 or more, or 0"),
    ("vocab.text_size=5", "config.vocab.text_size=5", "or more, or 0"),
    # Sizes that no machine has memory for.
    ("vocab.num_bins=1000000000", "config.vocab.num_bins=1000000000", "GiB; most of it"),
    ("vocab.num_classes=1000000000", "config.vocab.num_classes=1000000000", "GiB; most of it"),
    ("vocab.size=2147483647", "config.vocab.size=2147483647", "GiB; most of it"),
    ("vocab.text_size=1000000000", "config.vocab.text_size=1000000000", "GiB; most of it"),
    ("model.max_seq_len=1000000000", "config.model.max_seq_len=1000000000", "GiB; most of it"),
    ("model.enc_layers=1000000000", "config.model.enc_layers", "GiB; most of it"),
    ("model.dec_layers=1000000000", "config.model.dec_layers", "GiB; most of it"),
    ("model.enc_mlp=1600000000", "config.model.enc_", "GiB; most of it"),
    ("model.backbone.width=1e9", "config.model.backbone.width", "GiB; most of it"),
    ("model.backbone.name=resnet", "config.model.backbone.patch_size", "arch=resnet50"),
    (
        "tasks.detection.max_instances=1000000000",
        "config.tasks.detection.max_instances=1000000000",
        "GiB; most of it",
    ),
    (
        "tasks.segmentation.max_points=1000000000",
        "config.tasks.segmentation.max_points=1000000000",
        "GiB; most of it",
    ),
    (
        "tasks.captioning.max_tokens=1000000000",
        "config.tasks.captioning.max_tokens=1000000000",
        "GiB; most of it",
    ),
    (
        "tasks.captioning.captions_per_image=1000000000",
        "captions_per_image=1000000000",
        "GiB; most of it",
    ),
    (
        "tasks.keypoints.num_keypoints=1000000000",
        "config.tasks.keypoints.num_keypoints=1000000000",
        "GiB; most of it",
    ),
    (
        "tasks.detection.num_samples=1000000000",
        "config.tasks.detection.num_samples",
        "GiB; most of it",
    ),
    ("train.batch_size=1600000000", "config.train.batch_size=1600000000", "GiB; most of it"),
    (
        "tasks.keypoints.batch_size=1600000000",
        "config.tasks.keypoints.batch_size=1600000000",
        "GiB; most of it",
    ),
    # Names that the config does not have.
    ("train.stesp=3", "--config.train.stesp=3", "did you mean 'steps'?"),
    ("trian.steps=3", "--config.trian.steps=3", "did you mean 'train'?"),
    ("foo.bar=1", "--config.foo.bar=1", "there are ['about'"),
    ("seed.x=1", "--config.seed.x=1", "there is no section or field 'x'"),
    ("tasks.detektion.weight=1", "--config.tasks.detektion.weight=1", "did you mean 'detection'?"),
    ("tasks.detection.max_tokens=1", "--config.tasks.detection.max_tokens=1", "there are ["),
    ("tasks.detection.mix.more=1", "--config.tasks.detection.mix.more=1", "there are ['data']"),
    ("mesh.expert=2", "--config.mesh.expert=2", "there are ['allow_whole', 'data', 'fsdp'"),
    ("model.enc_dims=2", "--config.model.enc_dims=2", "did you mean 'enc_dim'?"),
]
VARIANTS = [
    ("detection.py:arch=nope", "arch='nope'", "use one of"),
    ("detection.py:arch=", "arch= has no value", "write arch=VALUE"),
    ("detection.py:arch= ", "arch= has no value", "write arch=VALUE"),
    ("detection.py:size=0", "size=0", "at least 1"),
    ("detection.py:size=-48", "size=-48", "at least 1"),
    ("detection.py:size=big", "size='big'", "not of the form"),
    ("detection.py:size=1.5", "size='1.5'", "not of the form"),
    ("detection.py:slots=0", "slots=0", "at least 1"),
    ("detection.py:sizes=64", "'sizes'", "write key=value"),
    ("detection.py:recipe=fast", "recipe='fast'", "use one of"),
    ("detection.py: ", "config variant ' '", "write key=value"),
    ("detection.py:shapes,,size=64", "a part is blank", "write key=value"),
    ("detection.py:data=", "data= has no value", "write data=VALUE"),
    ("multitask.py:arch=vit", "arch='vit'", "use one of"),
    ("workdir.py", "config variant ''", "name the workdir of a run"),
    ("workdir.py:/nowhere", "/nowhere/config.json does not exist", "fix --workdir"),
    ("workdir.py:/nowhere,task=detection", "/nowhere,task=detection", "as key=value"),
    ("nope.py", "there is no file", "give one of configs/*.py"),
]
FILES = [  # content of a config file, what must be named, remedy
    ("x = 1\n", "has no function get_config", "write `def get_config"),
    ("def get_config(arg=''):\n    return 1 +\n", "line 2", "correct the file"),
    ("import ml_collectoins\n", "line 1", "correct the file"),
    ("def get_config(arg=''):\n    return undefined\n", "line 2", "correct the file"),
    ("def get_config(arg=''):\n    pass\n", "returns a NoneType", "must return a ConfigDict"),
    (
        "def get_config(arg=''):\n    return {'train': {}}\n",
        "returns a dict",
        "must return a ConfigDict",
    ),
    ("def get_config(arg=''):\n    return {}['a']\n", "KeyError", "correct the file"),
    ("def get_config(arg=''):\n    raise OSError('gone')\n", "gone", "correct the file"),
    ("raise ValueError('first\\nsecond')\n", "first second", "--config="),
    ("def get_config(a, b):\n    pass\n", "TypeError", "correct the file"),
]
COMMAND_LINES = [  # instead of the flags of a run
    (["--wrokdir=x"], "'wrokdir'", "Did you mean: workdir"),
    (["--mode=tarin"], "--mode=tarin", "train_and_eval"),
    (["positional"], "['positional']", "flags look like --workdir=DIR"),
    (["--config.train.steps"], "--config.train.steps", "Missing value"),
    (["--workdir="], "--workdir=''", "give a folder"),
    (["--workdir= "], "--workdir=' '", "give a folder"),
    (
        ["--workdir=gs://bucket"],
        "--workdir=gs://bucket",
        "give a folder, or gs://BUCKET/FOLDER",
    ),
    (
        ["--workdir=s3://bucket/run"],
        "--workdir=s3://bucket/run",
        "give a folder, or gs://BUCKET/FOLDER",
    ),
    *(
        ([f"--workdir=run{c}"], f"--workdir=run{c}", "give a path without any of [ ] * ?")
        for c in "[]*?"
    ),
    (
        ["--workdir=gs:/bucket/run"],
        "--workdir=gs:/bucket/run",
        "give a folder, or gs://BUCKET/FOLDER",
    ),
]
# Values that no flag can have, but a config made by a program: (field, value, remedy).
OF_PROGRAMS = [
    *(
        (field, value, "give a whole number")
        for field in ("train.steps", "seed")
        for value in (True, 2.0, "3", None)
    ),
    *(("optim.beta1", value, RATE) for value in ("0.9", None, [0.9])),
    *(("data.check_images", value, "give true or false") for value in (1, 0, "yes", None)),
    *(("model.backbone.name", value, "give one of") for value in (3, None, True, ["vit"])),
    *(("tasks.detection.train_ops", value, "give a text") for value in (3, None)),
    *(
        ("model.image_size", value, "give two whole numbers")
        for value in (48, "48", (48.0, 48), None)
    ),
    *(("eval.boxes", value, "give a text") for value in (3, None)),
    *(("mesh.data", value, "give a number of devices") for value in (1.5, "all", None)),
]


CASES = [
    (f"{field}={value}", f"config.{field}=", remedy)
    for remedy, fields in BY_RANGE.items()
    for field, values in fields.items()
    for value in values
]
