"""HTML pages of token sequences beside their pictures, which open offline."""

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pix2seq_jax.evaluation.pictures import pages
from pix2seq_jax.evaluation.pictures.token_sheets import HOT, KINDS

MAP_SIDE = 64  # pixels of the longer side of an embedded map; the browser scales it

_STYLE = """
.two { display: grid; grid-template-columns: minmax(16rem, 32rem) 1fr; gap: 1rem; }
@media (max-width: 50rem) { .two { grid-template-columns: 1fr; } }
.shown { position: relative; align-self: start; } .shown img { width: 100%; display: block; }
.shown .map { position: absolute; inset: 0; height: 100%; }
.token { display: inline-block; border-left: .3rem solid var(--kind); background: var(--soft);
  border-radius: .2rem; padding: 0 .4rem; margin: .1rem; cursor: default; }
.token:hover, .token:focus { outline: 2px solid var(--kind); } .token small { opacity: .75; }
.read { text-decoration: line-through; opacity: .7; }
.detail { min-height: 7rem; } .row { margin: .15rem 0; }
""" + "".join(
    f".{kind} {{ --kind: rgb{color}; }}\n".replace(" (", "(") for kind, color in KINDS.items()
)

_SCRIPT = """
for (const part of document.querySelectorAll('.two')) {
  const detail = part.querySelector('.detail'), map = part.querySelector('.map');
  for (const token of part.querySelectorAll('.token')) {
    token.onmouseenter = token.onfocus = () => {
      if (map) { map.src = token.dataset.map || map.dataset.none; }
      if (!detail || !token.dataset.info) return;
      detail.replaceChildren();
      const table = document.createElement('table');
      for (const cells of JSON.parse(token.dataset.info)) {
        const row = table.insertRow();
        for (const text of cells) row.insertCell().textContent = text;
      }
      detail.append(table);
    };
    if (map) token.onmouseleave = () => { map.src = map.dataset.none; };
  }
}
"""
NONE = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"


class Part(NamedTuple):
    """A sequence on a page.

    Attributes:
        title: above it.
        picture: value of `src`, embedded or a relative link.
        prompt, tokens: their words, see `evaluation.token_words`.
        maps: f32[T,H,W] in [0, 1], which lie on the picture while a token is pointed at; None for
            none.
        line: tokens in a line; 0: as many as there is room for.
        text: below the title.
    """

    title: str
    picture: str
    prompt: Sequence[Mapping[str, Any]]
    tokens: Sequence[Mapping[str, Any]]
    maps: np.ndarray | None = None
    line: int = 0
    text: str = ""


def page(title: str, parts: Sequence[Part], *, text: str = "") -> str:
    """A page of sequences, each beside its picture."""
    body = "".join(
        f'<span class="token {kind}">{kind}</span>' for kind in KINDS if kind != "unused"
    )
    body = f"<p>{html.escape(text)}</p><p>{body}</p>" + "".join(map(_part, parts))
    return pages.page(title, body, style=_STYLE, script=_SCRIPT)


def _part(part: Part) -> str:
    overlay = ""
    if part.maps is not None:
        overlay = f'<img class=map src="{NONE}" data-none="{NONE}" alt="">'
    prompt = "".join(_chip(token, "") for token in part.prompt)
    chips = []
    for number, token in enumerate(part.tokens):
        chips.append(_chip(token, "" if part.maps is None else _map(part.maps[number])))
    length = part.line or max(len(chips), 1)
    lines = [chips[start : start + length] for start in range(0, len(chips), length)]
    rows = "".join(f"<div class=row>{''.join(line)}</div>" for line in lines)
    return (
        f"<h2>{html.escape(part.title)}</h2><p>{html.escape(part.text)}</p><div class=two>"
        f'<div class=shown><img src="{part.picture}" alt="">{overlay}</div>'
        f"<div><div class=detail>Point at a token.</div><div>prompt {prompt}</div>{rows}"
        "</div></div>"
    )


def _chip(token: Mapping[str, Any], shown: str) -> str:
    """A token; `shown` is the `src` of its map."""
    data = f' data-info="{html.escape(json.dumps(_info(token)), quote=True)}"'
    if shown:
        data += f' data-map="{shown}"'
    small = ""
    if "probability" in token:
        small = f" <small>{token['probability']:.2f}</small>"
    if token.get("read", token["text"]) != token["text"]:
        small = f" <small>reads {html.escape(str(token['read']))}</small>"
    kind = token["kind"]
    return f'<span tabindex=0 class="token {kind}"{data}>{html.escape(token["text"])}{small}</span>'


def _info(token: Mapping[str, Any]) -> list[list[str]]:
    """Rows of the table of a token."""
    names = ("position", "object", "kind", "text", "token", "value", "pixels", "probability")
    rows = [[name, str(token[name])] for name in (*names, "weight", "read") if name in token]
    for one in token.get("runners_up", ()):
        rows.append(["runner-up", f"{one['text']} ({one['kind']}) {one['probability']:.4f}"])
    return rows


def _map(attention: np.ndarray) -> str:
    """A map f32[H,W] in [0, 1] as the `src` of a small picture, transparent where it is 0."""
    small = Image.fromarray(np.round(215 * attention).astype(np.uint8))
    small.thumbnail((MAP_SIDE, MAP_SIDE))
    picture = Image.new("RGB", small.size, tuple(HOT.tolist()))
    picture.putalpha(small)
    return pages.embedded(picture, "WEBP", quality=60)
