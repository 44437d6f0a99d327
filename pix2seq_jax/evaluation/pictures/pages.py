"""HTML pages that open offline: one file, styles and scripts in it, pictures by relative links."""

import base64
import html
import io
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from PIL import Image

from pix2seq_jax.files.locations import readable

STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882; --accent: #0072b2; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0; padding: 1.2rem; }
h1 { font-size: 1.3rem; margin: 0 0 .4rem; } h2 { font-size: 1.05rem; margin: 1.4rem 0 .4rem; }
a { color: inherit; } code { font-size: .9em; }
button { font: inherit; border: 1px solid var(--line); border-radius: 1rem; padding: .1rem .7rem;
  background: none; color: inherit; cursor: pointer; margin: 0 .25rem .35rem 0; }
button[aria-pressed=true] { background: var(--accent); color: #fff; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: .4rem; overflow: hidden; }
figure img, figure video { width: 100%; display: block; background: var(--soft); }
figure a img { height: 13rem; object-fit: contain; }
figcaption { padding: .4rem .6rem; overflow-wrap: anywhere; }
figcaption small { opacity: .8; display: block; } [hidden] { display: none; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .1rem .5rem; text-align: left; border-bottom: 1px solid var(--soft); }
"""

_FILTER = """
const cards = [...document.querySelectorAll('figure[data-classes]')];
const buttons = [...document.querySelectorAll('button[data-class]')];
const count = document.getElementById('count');
function show(name) {
  let shown = 0;
  for (const card of cards) {
    const has = name === '' || JSON.parse(card.dataset.classes).includes(name);
    card.hidden = !has; shown += has;
  }
  for (const one of buttons) one.setAttribute('aria-pressed', one.dataset.class === name);
  count.textContent = shown + ' of ' + cards.length + ' shown';
}
for (const one of buttons) one.onclick = () => show(one.dataset.class);
show('');
"""


def page(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """A whole page; `body` is HTML, `title` is text."""
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}{style}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>\n{body}\n<script>{script}</script></body></html>\n"
    )


def card(name: str, picture: str, thumbnail: str, words: Mapping[str, int], text: str = "") -> str:
    """A picture of a gallery.

    Args:
        name: of the image; its folder and its own name are shown.
        picture: path of the annotated picture or video, relative to the page.
        thumbnail: of a small picture, relative to the page; "" shows `picture` as a video.
        words: how many objects of each class are in it.
        text: captions.
    """
    classes = html.escape(json.dumps(list(words)), quote=True)
    listed = ", ".join(f"{count} {word}" if count > 1 else word for word, count in words.items())
    if thumbnail:
        shown = f'<a href="{link(picture)}"><img loading=lazy src="{link(thumbnail)}" alt=""></a>'
    else:
        shown = f'<video controls preload=metadata src="{link(picture)}"></video>'
    lines = [html.escape(line) for line in (listed or "nothing", text) if line]
    small = "".join(f"<small>{line}</small>" for line in lines)
    name = readable(name)
    short = html.escape("/".join(name.replace("\\", "/").split("/")[-2:]))
    caption = f'<figcaption title="{html.escape(name, quote=True)}">{short}{small}</figcaption>'
    return f'<figure data-classes="{classes}">{shown}{caption}</figure>'


def gallery(
    title: str,
    cards: Sequence[str],
    images_of: Mapping[str, int],
    skipped: Sequence[tuple[str, str]] = (),
) -> str:
    """A page of `card`s with a button for each class.

    Args:
        title: of the page.
        cards: HTML.
        images_of: class -> number of cards that have it.
        skipped: (file, why) of those that could not be read.
    """
    buttons = ['<button data-class="">all</button>']
    for name, count in sorted(images_of.items(), key=lambda item: (-item[1], item[0])):
        escaped = html.escape(name, quote=True)
        buttons.append(f'<button data-class="{escaped}">{escaped} {count}</button>')
    body = f"<p>{''.join(buttons)} <span id=count></span></p>"
    body += f"<div class=grid>{''.join(cards)}</div>"
    if skipped:
        lines = [(html.escape(readable(one)) for one in row) for row in skipped]
        rows = "".join(f"<tr><td>{file}<td>{why}" for file, why in lines)
        body += f"<h2>Skipped: {len(skipped)} files</h2><table>{rows}</table>"
    return page(title, body, script=_FILTER)


def link(path: str) -> str:
    """A relative path as the value of an attribute."""
    return html.escape(quote(os.fsencode(path)), quote=True)


def embedded(picture: Image.Image, form: str = "PNG", **options: Any) -> str:
    """A picture as the value of `src`, within the page."""
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"
