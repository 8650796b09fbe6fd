"""STUDY.yaml: the specification of a study, read and checked."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, PrivateAttr

from mmard.api.overrides import stand_once
from mmard.api.recipe_files import is_package_file, recipe_folders
from mmard.api.settings import Settings, flat, read_settings
from mmard.utils.argument_types import Names
from mmard.utils.errors import MmardError, unknown
from mmard.utils.files import write_text
from mmard.utils.portable_paths import portable
from mmard.utils.text_files import read_yaml
from mmard.utils.validation import Count, Section, Seed, keys_of, validated

OF_THE_STUDY = {"out": "the study's own out", "seed": "seeds: [0, 1, 2]"}


class Evaluation(Section):
    """The evaluation of each cell, as by ``mmard eval``; ``checkpoint`` names which of its weights."""

    attacks: Names = None
    limit: Count | None = None
    batch_size: Count = 500
    seed: Seed = 0
    checkpoint: Literal["best", "last"] = "best"

    def asked(self) -> dict[str, Any]:
        """Write the request as scores.json has it."""
        return {**self.model_dump(exclude={"checkpoint"}), "overrides": {}}


class StudyFile(Section):
    """A grid of runs.

    ``base`` is a recipe, a YAML file, a run folder or settings; ``settings`` change it for all cells; ``grid`` maps the
    name of each axis to a list of values, or to labels with a value each; ``compare`` names the axis whose first label
    is the baseline (the first axis unless given).
    """

    about: str = ""
    out: Annotated[str, Field(min_length=1)]
    base: str | dict[str, Any] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, Any] = Field(default_factory=dict)
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    evaluate: Evaluation = Evaluation()
    compare: str | None = None
    _trust: bool = PrivateAttr(default=False)  # no key of the file

    def trusting(self, trust: bool) -> "StudyFile":
        """Copy the study with or without the user's trust in the methods that it names."""
        made = self.model_copy()
        made._trust = trust
        return made

    @property
    def folder(self) -> Path:
        """Return the folder of its runs and tables."""
        return Path(self.out).expanduser()

    def base_settings(self) -> Settings:
        """Resolve what all the cells share."""
        for where, given in (("base", self.base), ("settings", self.settings)):
            for key in given if isinstance(given, dict) else ():
                not_ours(key, where)
            stand_once(given if isinstance(given, dict) else {}, where)
        recipe, changes = (None, flat(self.base)) if isinstance(self.base, dict) else (self.base, {})
        base = read_settings(recipe, changes, trust=self._trust, own=False)
        return read_settings(base, flat(self.settings), own=False)

    def save(self, path: Path) -> None:
        """Write its `text` into a file."""
        write_text(path, self.text())

    def text(self) -> str:
        """Write it as YAML with its base resolved, so that the file says the same when a recipe has changed."""
        base = self.base_settings().model_dump(mode="json", exclude=set(OF_THE_STUDY))
        whole = {**self.model_dump(mode="json"), "base": base, "settings": {}}
        return yaml.safe_dump(portable(whole), sort_keys=False, allow_unicode=True)


def is_setting(key: str) -> bool:
    """Tell whether there is a setting of this name; parameters of a method and further teachers are settings, too."""
    return key in keys_of(Settings) or key.startswith(("method.", "teachers."))


def not_ours(key: str, where: str) -> None:
    """Raise MmardError for a setting that the study itself gives to each cell."""
    if key in OF_THE_STUDY:
        raise MmardError(f"{where}: {key} is not for a cell to choose; expected {OF_THE_STUDY[key]}")


def studies() -> dict[str, Path]:
    """Find the built-in studies by name."""
    return {p.stem: p for folder in recipe_folders() for p in sorted((folder / "studies").glob("*.yaml"))}


def read_study(source: str | Path, *, trust: bool = False) -> StudyFile:
    """Read a study from a YAML file, or a built-in one by name.

    Args:
        trust: the user vouches for the methods that the file names; those of this package's own studies need no word.

    Raises:
        MmardError: for a file that is not there or no YAML, a key twice, an unknown key.
    """
    path = Path(source).expanduser()
    if path.suffix not in (".yaml", ".yml"):
        if str(source) not in studies():
            raise unknown("study", str(source), studies(), "or give a .yaml file")
        path = studies()[str(source)]
    raw = read_yaml(path)
    return validated(StudyFile, raw, "key of the study").trusting(trust or is_package_file(path))
