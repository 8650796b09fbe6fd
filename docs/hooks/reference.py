"""Make the reference from the package itself, at build time: commands, Python names, methods, checks and settings.

A page of docs/reference/ says in words what it lists and has a line `<!-- made: NAME -->`; what is listed takes its place, and
that of a paragraph before it which is for readers of the clone.
Only what mkdocs calls needs mkdocs: tests ask for the lists without it.
"""

import inspect
import logging
import posixpath
import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel
from typer.main import get_command

import mmard
from mmard.api.settings import Settings
from mmard.cli.app import app
from mmard.core.threat import in_255ths
from mmard.evaluation.checks.messages import AFTER, BEFORE
from mmard.methods import METHODS
from mmard.methods.papers import Citation
from mmard.training.passes import cost_of
from mmard.utils.validation import Section

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOMS = {name: f"mmard.{name}" for name in (
    "api", "core", "methods", "terms", "losses", "attacks", "evaluation", "diagnostics", "models", "data", "training", "runs",
    "report", "study",
)}  # fmt: skip
"""Modules with a page each, by the name of the page."""
NAMED = re.compile(r"(?<![\w/.])docs/([\w/-]+)\.md")
"""A page of the documentation, as docstrings and help name it."""
SECTIONS = [name for name, info in Settings.model_fields.items() if isinstance(info.default, Section)]
LIMITS = {"minimum": "from {}", "exclusiveMinimum": "above {}", "maximum": "to {}", "exclusiveMaximum": "below {}"}
KINDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "null": "none",
         "object": "keys and values"}  # fmt: skip


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add a page for each of the modules."""
    from mkdocs.structure.files import File

    for name, module in ROOMS.items():
        options = "{ show_root_heading: false, show_root_toc_entry: false, show_submodules: true }"
        text = f"# {module}\n\n::: {module}\n    options: {options}\n"
        files.append(File.generated(config, f"reference/python/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put what a page lists in the place of its line."""
    return re.sub(
        r"^(?:_In a clone [^_]+_\n)?<!-- made: (\w+) -->$",
        lambda mark: "\n\n".join(LISTS[mark[1]]()),
        markdown,
        flags=re.MULTILINE,
    )


def on_page_content(html: str, page: "Page", files: "Files", **_: object) -> str:
    """Link the pages that docstrings and help name, `docs/trust.md`; one that is not there is a warning."""

    def linked(found: re.Match[str]) -> str:
        if (there := files.get_file_from_path(f"{found[1]}.md")) is None:
            logging.getLogger("mkdocs.hooks").warning("%s names %s, which is not there", page.file.src_uri, found[0])
            return found[0]
        return f'<a href="{posixpath.relpath(there.url, posixpath.dirname(page.file.url) or ".")}">{found[0]}</a>'

    return NAMED.sub(linked, html) if page.file.src_uri.startswith("reference/") else html


def escaped(text: str) -> str:
    """Write plain text so that Markdown shows it as it is; words that are code or bold there stay so."""
    text = re.sub(r"\[bold\](.*?)\[/bold\]", r"``\1``", text)
    parts = re.split(r"(``.+?``|`[^`\n]+`)", text)
    return "".join(part if i % 2 else re.sub(r"([\\*_<>\[\]#|])", r"\\\1", part) for i, part in enumerate(parts))


def item(name: str, traits: Iterable[str], sentence: str) -> str:
    """Write an item of a list: a name, what may stand there, and what it is for."""
    given = "; ".join(filter(None, traits))
    return f"- {name}{f' ({given})' if given else ''}{f': {escaped(sentence)}' if sentence else ''}"


def commands() -> Iterator[str]:
    """Write every command: what it does, how it is called, its arguments and options."""
    group = get_command(app)
    for name, command in {**group.commands, "": group}.items():  # type: ignore[attr-defined]
        told, _, rest = inspect.cleandoc(command.help or "").partition("\n\n")
        given = [each for each in command.params if not each.hidden and each.name != "help"]
        taken = "".join(f" {word(each)}" for each in given if each.param_type_name == "argument")
        yield f"## mmard {name}".rstrip()
        yield escaped(told)
        yield f"```sh\nmmard {name or 'COMMAND'} [OPTIONS]{taken}\n```"
        yield escaped(rest)
        yield "\n".join(option(each) for each in given)


def word(argument: Any) -> str:
    """Write an argument of a command as its usage does: in brackets, where it may be left out."""
    name = argument.metavar or argument.name.upper()
    return name if argument.required or name.startswith("[") else f"[{name}]"


def option(of: Any) -> str:
    """Write an argument or an option of a command."""
    names = [word(of)] if of.param_type_name == "argument" else [*of.opts, *of.secondary_opts]
    ends = [(words, getattr(of, end, None)) for words, end in (("from", "min"), ("to", "max"))]
    limits = " ".join(f"{words} {end}" for words, end in ends if end is not None)
    default = "" if of.default in (None, False, ()) else f"default `{of.default}`"
    return item(", ".join(f"`{name}`" for name in names), [limits, default], of.help or "")


def python() -> Iterator[str]:
    """Write the public names."""
    for name in mmard.__all__:
        if inspect.ismodule(getattr(mmard, name)):
            yield f"## {name}\n\nThe module [`mmard.{name}`](python/{name}.md)."
        else:
            yield f"::: mmard.{name}\n    options: {{ heading_level: 2 }}"


def methods() -> Iterator[str]:
    """Write the methods: what each costs in one table, then paper, formula and parameters of each."""
    built = {name: builder() for name, builder in METHODS.items()}
    rows = [
        f"| {f'[`{name}`](#{name})' if i == 0 else ''} | {network} | {of['attack']} | {of['loss']} |"
        for name, method in built.items()
        for i, (network, of) in enumerate(cost_of(method).items())
    ]
    yield "\n".join(["| method | network | in the attack | in the loss |", "|---|---|---:|---:|", *rows])
    for name, builder in METHODS.items():
        told, _, rest = inspect.cleandoc(builder.__doc__ or "").partition("\n\n")
        yield f"## {name}"
        yield escaped(told)
        yield paper(getattr(import_module(builder.__module__), "CITATION", None))
        yield f"```text\n{built[name]}\n```"
        taken = inspect.signature(builder).parameters.values()
        yield "\n".join(item(f"`{each.name}`", [f"default `{in_words(each.default)}`"], "") for each in taken)
        yield escaped(rest)


def paper(citation: Citation | None) -> str:
    """Write a citation with a link to the paper, where it stands on arXiv."""
    if citation is None:
        return ""
    where = f"[arXiv {citation.arxiv}](https://arxiv.org/abs/{citation.arxiv})" if citation.arxiv else ""
    published = f"{citation.venue} {citation.year}".lstrip()
    return ", ".join(filter(None, (escaped(citation.authors), f"*{escaped(citation.title)}*", published, where))) + "."


def checks() -> Iterator[str]:
    """Write the checks of an evaluation: what a finding means, and what to do."""
    for title, found in (("Before the attacks", BEFORE), ("Of the verdicts", AFTER)):
        yield f"## {title}"
        yield "\n".join(f"- `{name}`: {escaped(means)}. **Do:** {escaped(do)}." for name, (means, do) in found.items())


def settings() -> Iterator[str]:
    """Write every setting: the values it takes, its default, and what it is for."""
    found = fields(Settings)
    for section in ("", *SECTIONS):
        model = type(Settings.model_fields[section].default) if section else Settings
        yield f"## {section or 'A run'}"
        yield escaped((model.__doc__ or "").splitlines()[0])
        own = [key for key in found if (key.split(".")[0] if "." in key else "") == section and key not in SECTIONS]
        yield "\n".join(item(f"`{key}`{{ #{key} }}", found[key][:2], found[key][2]) for key in own)


def fields(model: type[Section], prefix: str = "") -> dict[str, tuple[str, str, str]]:
    """Return of each setting of a section, and of those within it, the values, the default and the sentence."""
    told, schema = sentences(model), model.model_json_schema()
    found = {}
    for name, info in model.model_fields.items():
        default = (
            "required" if info.is_required() else f"default {in_words(info.get_default(call_default_factory=True))}"
        )
        found[prefix + name] = (values(schema["properties"][name]), default, told.get(name, "").replace("None", "none"))
        for inner in (info.annotation, *get_args(info.annotation)):
            if isinstance(inner, type) and issubclass(inner, Section):
                found |= fields(inner, f"{prefix}{name}.")
    return found


def sentences(model: type[BaseModel]) -> dict[str, str]:
    """Read what the docstrings of a section, and of the section that it extends, say of each field."""
    found: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        for part in re.findall(
            r"^(?:Args|Attributes):\n((?: +.*\n?|\n)+)", inspect.cleandoc(kind.__doc__ or ""), re.MULTILINE
        ):
            for names, text in re.findall(r"^ {4}(\w+(?:, \w+)*): (.*(?:\n {5,}.*)*)", part, re.MULTILINE):
                found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return found


def values(schema: dict[str, Any]) -> str:
    """Write in words what a JSON schema allows."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(values, schema["anyOf"])))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{each}`" for each in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list ({values(schema.get('items', {}))})"
    limits = (words.format(in_words(schema[key])) for key, words in LIMITS.items() if key in schema)
    return " ".join([KINDS[schema.get("type", "object")], *limits])


def in_words(value: Any) -> str:
    """Write a value as a recipe has it."""
    if isinstance(value, dict):
        return "its own defaults" if value else "empty"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(in_words, value))}]" if value else "empty"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return in_255ths(value) if isinstance(value, float) else str(value) or "empty"


LISTS = {each.__name__: each for each in (commands, python, methods, checks, settings)}
