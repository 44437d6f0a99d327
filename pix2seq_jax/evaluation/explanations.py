"""Writes what was explained of an image: a page, pictures and JSON."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pix2seq_jax.evaluation.explaining import Explained
from pix2seq_jax.evaluation.pictures import token_pages, token_sheets
from pix2seq_jax.evaluation.predictor import Predictor
from pix2seq_jax.files.whole import write_whole

MAPS = 20  # of the attention picture of a sequence without objects
COLUMNS = 5  # of the attention picture, where the task does not say


def write(
    explained: Sequence[Explained],
    out: Path,
    file: str,
    model: Predictor,
    *,
    threshold: float,
    objects: int,
) -> None:
    """Writes index.html, tokens.json, and two pictures for each sequence.

    Where a sequence holds many objects the pictures show the tokens of the `objects` best that
    score at least `threshold` (of the best one, if none does); the page and the JSON have all.
    """
    parts, rows = [], []
    for number, one in enumerate(explained):
        name = f"{number:02d}_{one.task}"
        picture = model.picture(one.pixels, one.objects, threshold)
        numbers = shown(one, threshold, objects)
        tokens = [one.tokens[i] for i in numbers]
        _save(token_sheets.listed(picture, [*one.prompt, *tokens]), out / f"{name}.png")
        plain = model.picture(one.pixels, _without_text(one.objects), threshold)
        plain.save(out / f"{name}_objects.png")
        line = sum(token.get("object") == 0 for token in one.tokens)  # 0: no objects
        picked = numbers if line else numbers[:MAPS]
        sheet = token_sheets.attention_sheet(
            one.pixels,
            [one.tokens[i] for i in picked],
            one.attention[picked],
            columns=line or COLUMNS,
        )
        sheet.save(out / f"{name}_attention.png")
        text = " ".join(one.objects.get("captions", ()))
        parts.append(
            token_pages.Part(
                one.title, f"{name}_objects.png", one.prompt, one.tokens, one.attention, line, text
            )
        )
        rows.append(
            {"task": one.task, "title": one.title, "prompt": one.prompt} | {"tokens": one.tokens}
        )
    write_whole(out / "tokens.json", json.dumps({"file": file, "sequences": rows}, indent=1))
    text = f"Weights of step {model.step}. Boxes and maps lie on what the model sees of the image."
    write_whole(out / "index.html", token_pages.page(Path(file).name, parts, text=text))


def shown(one: Explained, threshold: float, objects: int) -> list[int]:
    """The numbers of the tokens of the best objects, in the order of their scores; of a sequence
    without scores all."""
    if not len(one.scores):
        return list(range(len(one.tokens)))
    best = np.argsort(-one.scores, kind="stable")[:objects]
    wanted = [int(i) for i in best if one.scores[i] >= threshold] or best[:1].tolist()
    return [i for rank in wanted for i, token in enumerate(one.tokens) if token["object"] == rank]


def _without_text(objects: dict) -> dict:
    """What is drawn without the captions, so that maps fit the picture."""
    return {name: value for name, value in objects.items() if name != "captions"}


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
