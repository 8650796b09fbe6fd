"""The templates of the page: Jinja2 escapes whatever they are given, but for what is markup already."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def page(**context: Any) -> Markup:
    """Fill templates/page.html."""
    return Markup(_ENVIRONMENT.get_template("page.html").render(**context).strip())


def section(name: str, **parts: Any) -> Markup:
    """Fill the macro of that name in templates/sections.html."""
    return Markup(getattr(_ENVIRONMENT.get_template("sections.html").module, name)(**parts).strip())


def asset(name: str) -> Markup:
    """Read a file of the folder templates/ as it stands, such as the style sheet."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))
