"""The console command `pix2seq VERB`: each verb is `python -m pix2seq_jax.MODULE`.

    pix2seq train --config=detection:shapes --workdir=runs/shapes

A further verb is a line of VERBS; its module has FLAGS, a docstring with an example, and `main`.
"""

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import pix2seq_jax

HELP = ("--help", "-help", "-h")


class Verb(NamedTuple):
    """A line of the table.

    Attributes:
        name: on the command line.
        module: of the package, with `main`, FLAGS and a docstring.
        help: one line for the list.
    """

    name: str
    module: str
    help: str


VERBS = (
    Verb("train", "main", "Train a model, and evaluate it on the way."),
    Verb("eval", "evaluate", "Evaluate what a workdir holds."),
    Verb("predict", "predict", "Run a trained model on images."),
    Verb("report", "report", "Write the report of an evaluation again."),
    Verb("explain", "explain", "Show the tokens of an image, their probabilities and attention."),
    Verb("browse", "browse", "Show training samples as the model sees them."),
    Verb("validate", "validate", "List what is wrong with a data set."),
    Verb("prepare", "prepare", "Write a data set as shards; read Pascal VOC, YOLO and TFDS."),
    Verb("import-tf", "import_tf", "Import a checkpoint of the official TensorFlow release."),
    Verb("export", "export", "Write a model that needs neither this package nor flax."),
    Verb("serve", "serve", "Answer images over HTTP."),
    Verb("plan", "plan", "Say what a run needs on machines that are not here."),
    Verb("bench", "bench", "Run one of the benchmarks of a checkout."),
    Verb("demo", "demo", "Draw data, train, evaluate and predict on two cores."),
    Verb("weights", "weight_search", "Search the weights of tasks."),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; it ends as that of the verb does, and with 2 for a verb that there is not."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    first = arguments[0] if arguments else HELP[0]
    if first in HELP:
        print(overview())
        return
    if first == "--version":
        print(f"pix2seq_jax {pix2seq_jax.__version__}")
        return
    verb = _find(first)
    name = f"{pix2seq_jax.__name__}.{verb.module}"
    module = importlib.import_module(name)
    if any(argument in HELP for argument in arguments[1:]) and module.FLAGS:
        from pix2seq_jax.experiment import command

        print(command.short_help(module.__doc__, module.FLAGS, name, verb.name))
        return
    module.main(arguments[1:])


def overview() -> str:
    """The verbs, for `pix2seq --help`."""
    longest = max(len(verb.name) for verb in VERBS)
    lines = [f"  {verb.name.ljust(longest)}  {verb.help}" for verb in VERBS]
    example = "  pix2seq train --config=detection:shapes --workdir=runs/shapes"
    more = "pix2seq VERB --help says what a command takes."
    title = "Pix2Seq in JAX: vision tasks as language modelling."
    return "\n".join([title, "", example, "", *lines, "", more])


def _find(name: str) -> Verb:
    """The verb of this name; ends the process with a line and exit code 2 where there is none."""
    verbs = {verb.name: verb for verb in VERBS}
    if name in verbs:
        return verbs[name]
    near = difflib.get_close_matches(name, verbs, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(verbs)}"
    print(f"error: pix2seq has no command {name!r}; {hint}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
