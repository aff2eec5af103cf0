"""Web pages and Markdown that show data of others: one environment, one layout, one style, for all packages.

In: a folder of templates, and values. Out: text. On disk: `templates/page.html`, the layout that every page
extends, and `templates/page.css`, the style of all of them: light and dark, phone to wall screen.

Every text that a template prints is made visible and then escaped, so no template can forget either. A name that is
not given is an error. Pages load nothing from elsewhere (strict CSP). One that is a single file carries its style,
allowed by its hash, and no script; those of the gallery carry one small script of ours, `templates/gallery.js`, allowed
by its hash, and can be read without it.
"""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from shards.disk.safe_text import clip, markdown, visible

TEMPLATES = Path(__file__).parent / "templates"
STYLE = TEMPLATES / "page.css"
SCRIPT = TEMPLATES / "gallery.js"
NOTICES = {
    "synthetic": "Synthetic pictures: made by a generative model, showing nothing that happened.",
    "edited": "Edited pictures: real photographs changed by a generative model.",
    "real": "Real pictures.",
    "retrieved": "Retrieved pictures: found on the web, each with its source in the table.",
}


def page_environment(own: Path = TEMPLATES) -> Environment:
    """For web pages made of the templates in the folder `own` and of the layout."""
    environment = Environment(
        loader=FileSystemLoader([own, TEMPLATES]),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    environment.filters["clip"] = clip
    return environment


def markdown_environment() -> Environment:
    """For Markdown: every text means itself, no markup in it takes effect."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=False,  # markdown() does it
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: markdown(value) if type(value) is str else value,
    )


def one_file_page(environment: Environment, template: str, style: Path, values: Mapping[str, object]) -> str:
    """The page as one file: the common style and `style` are in it."""
    css = "\n" + STYLE.read_text(encoding="utf-8") + style.read_text(encoding="utf-8")  # our own two files
    return environment.get_template(template).render(style=Markup(css), style_hash=hash_of(css), **values)


def hash_of(text: str) -> str:
    """The hash by which a policy allows a style or script that stands in the page."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
