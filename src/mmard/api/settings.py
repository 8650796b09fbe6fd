"""Settings: YAML recipes plus ``key.sub=value`` overrides, validated before anything heavy runs."""

import copy
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr

from mmard.api.kinds import Network, Parts, Teacher, Teachers, Trackers
from mmard.api.overrides import stand_once
from mmard.api.recipe_files import is_package_file, recipe_file, with_bases
from mmard.api.registry import names_of, spec_of
from mmard.api.replaced_settings import OF_LENGTH, forget_replaced
from mmard.api.shorter_run import as_shares
from mmard.attacks.inner.compose import Inner
from mmard.data.augment import Kind, LateAugmentation
from mmard.data.sources import FileOptions
from mmard.models.foreign import NetworkSpec, is_foreign
from mmard.training.averaging import Averaging
from mmard.training.schedule import Plan
from mmard.training.validation import Validation
from mmard.utils.errors import MmardError
from mmard.utils.numbers import shortened
from mmard.utils.trust import Trust
from mmard.utils.validation import Count, Fraction, NotNegative, Positive, Section, Seed, plain, validated

NETWORKS = ("student", "teacher")
"""Settings that name a network, perhaps with parameters: ``student.width=8``; and ``teachers``, each of which does."""


class DataSettings(FileOptions):
    """The settings of the data set; see ``mmard ls data``.

    Args:
        held_out: share of the training images to choose checkpoints on.
        limit, test_limit: only so many training or test images, classes in proportion.
        seed: of the held-out split and of the limits.
        extra: an .npz file of further training images, such as generated ones; no teacher is trained on them.
        extra_ratio: the extra images' share of each batch.
        extra_labels: who labels the extra images; None: the file where it can, else the teacher.
        augment: random changes of the training images (docs/runs.md).
        augment_late: another kind of it from some time on: ``{kind: idbh, after: 0.5}``.
        variants: so many crops and flips of each image, drawn once, which the teacher sees once; None: drawn anew in each step.
    """

    held_out: Fraction = 0.1
    limit: Count | None = None
    test_limit: Count | None = None
    seed: Seed = 0
    extra: str | None = None
    extra_ratio: Fraction = 0.7
    extra_labels: Literal["file", "teacher"] | None = None
    augment: Kind = "none"
    augment_late: LateAugmentation | None = None
    variants: Count | None = None


class ThreatSettings(Section):
    """The ball in which examples are made and evaluated.

    Args:
        eps: its radius, for pixels in [0, 1].
        norm: ``linf`` bounds each pixel's change, ``l2`` the length of all of them.
    """

    eps: NotNegative = 8 / 255
    norm: Literal["linf", "l2"] = "linf"


class EngineSettings(Section):
    """The settings of device, precision and processes.

    Args:
        accelerator: kind of device; ``auto``: a GPU where there is one.
        devices, nodes: devices of a machine, and machines; each device has a process.
        precision: of training and its attack; see `Engine`. Evaluation is always in float32.
        micro_batch: images at once through the networks, whose gradients add up; ``auto``: as many as fit; None: all of a batch.
        compile: compile the networks by torch.compile.
    """

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: Count = 1
    nodes: Count = 1
    precision: Literal["auto", "32-true", "tf32", "bf16-mixed"] = "32-true"
    micro_batch: Parts = None
    compile: bool = False


class Settings(Section):
    """All the settings of a run.

    Args:
        about: a line on what the recipe does.
        method: a name, ``mmard(rslad, gamma=1)``, ``{name: ..., parameter: value}`` or ``file.py:function``.
        student: an architecture, or a network from elsewhere (docs/networks.md), perhaps as ``{name: ..., parameter: value}``.
        normalize: ``data`` subtracts the training images' mean inside the network and divides by their deviation.
        teacher: a run folder, weights or a card, or a network from elsewhere with its weights, ``timm:resnet18@weights.pt``.
        teacher_recipe: trains the teacher where there is none yet.
        teachers: further networks by name, such as ``teachers.natural``; ``teachers.robust`` is another name of ``teacher``.
        teacher_check: ``none`` skips the check of teachers before training (docs/teachers.md).
        out: the run folder.
        seed: of weights, order of images, augmentation and attacks.
        scale: multiplies the KL terms; ``1/num_classes`` is for scripts that average KL over classes.
        checkpoint_every: steps between checkpoints within an epoch; None: one at its end.
        tensorboard: old word for ``tracking: [tensorboard]``.
        tracking: who else hears of the run: ``[tensorboard, mlflow, wandb]``.
        licence: of the weights, for their card.
    """

    about: str = ""
    method: str | dict[str, Any] = "rslad"
    student: Network = "cnn-16-3"
    normalize: Literal["none", "data"] = "none"
    teacher: Teacher = None
    teacher_recipe: str | None = None
    teachers: Teachers = Field(default_factory=dict)
    teacher_check: Literal["stop", "none"] = "stop"
    out: Annotated[str, Field(min_length=1)] = "runs/run"
    seed: Seed = 0
    scale: Literal["1/num_classes"] | Positive = 1.0
    checkpoint_every: Count | None = None
    tensorboard: bool = False
    tracking: Trackers = Field(default_factory=list)
    licence: str | None = None
    data: DataSettings = DataSettings()
    threat: ThreatSettings = ThreatSettings()
    attack: Inner = Inner()
    train: Plan = Plan()
    averaging: Averaging = Averaging()
    validation: Validation = Validation()
    engine: EngineSettings = EngineSettings()
    _trust: Trust = PrivateAttr(default=Trust())  # no key of a file: nothing can vouch for itself
    _said: frozenset[str] = PrivateAttr(default=frozenset())
    _notes: tuple[str, ...] = PrivateAttr(default=())

    @property
    def trust(self) -> Trust:
        """Return what the user vouches for in these settings; `read_settings` knows whose words they are."""
        return self._trust

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what became of a recipe's settings beside those that were given, a line each."""
        return self._notes

    def trusting(self, trust: Trust, said: Set[str] = frozenset(), notes: tuple[str, ...] = ()) -> "Settings":
        """Copy the settings with another trust, and with more dotted keys that the user himself gives, and more notes."""
        made = self.model_copy()
        made._trust, made._said, made._notes = trust, self._said | said, self._notes + notes
        return made

    def is_said(self, key: str) -> bool:
        """Tell whether the user himself gives a setting: by a word, or in a recipe of his own; not a run, nor a study."""
        return any(key == said or key.startswith(f"{said}.") or said.startswith(f"{key}.") for said in self._said)

    def resolved(self) -> dict[str, Any]:
        """Convert to plain values, for YAML and for a weights file's header."""
        return self.model_dump(mode="json")


SECTIONS = {name for name, info in Settings.model_fields.items() if isinstance(info.default, Section)}
"""Settings that are a section of their own: ``data``, ``train`` ..."""


def read_settings(
    recipe: "str | Path | Settings | dict[Any, Any] | None",
    overrides: dict[str, Any] | None = None,
    *,
    trust: bool = False,
    own: bool = True,
) -> Settings:
    """Read settings from a recipe, a run folder or other settings (None: the defaults), and overrides by dotted key.

    Args:
        recipe: a mapping is what the file would hold, in the user's own words.
        trust: the user vouches for whatever they name.
        own: whether the overrides are the user's own words, and not those of a file, such as a study's.

    >>> read_settings(None, {"threat.eps": "4/255"}).threat.eps == 4 / 255
    True
    """
    raw: dict[str, Any] = {}
    known, said, notes = Trust(everything=trust), frozenset[str](), tuple[str, ...]()
    if isinstance(recipe, Settings) and not overrides:
        return recipe.trusting(recipe.trust.also(everything=trust))
    if isinstance(recipe, Settings):
        raw, known, said, notes = recipe.resolved(), recipe.trust.also(everything=trust), recipe._said, recipe.notes
    elif recipe is not None:
        raw, found, said, notes = settings_in(recipe, trust=trust)
        known = found.also(everything=trust)
    made = _joined(raw, overrides or {}, known, own, said if own else frozenset())
    return made.trusting(made.trust, notes=notes)


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten settings to dotted keys: ``{"train": {"lr": 1}}`` changes ``train.lr`` and leaves the rest of ``train`` alone."""
    pairs: dict[str, Any] = {}
    for key, value in settings.items():
        inside = value if key in SECTIONS and isinstance(value, dict) else None
        pairs |= {key: value} if inside is None else {f"{key}.{k}": v for k, v in inside.items()}
    return pairs


def settings_in(
    recipe: str | Path | dict[Any, Any], *, trust: bool = False
) -> tuple[dict[str, Any], Trust, frozenset[str], tuple[str, ...]]:
    """Read the settings in a recipe and its bases, or in a run folder; which words are trusted, which keys the user gives; notes.

    Raises:
        MmardError: when it is not there, a setting stands in a file twice, or a base is none.
    """
    if isinstance(recipe, dict):
        chain = with_bases(Path("the recipe"), plain(recipe, "setting"), anywhere=True)
    else:
        chain = with_bases(recipe_file(str(recipe)), anywhere=trust)
    raw: dict[str, Any] = {}
    known, notes = Trust(), tuple[str, ...]()
    for path, given in chain:
        stand_once(given, str(path))
        notes += _change(raw, flat(given))
        users = isinstance(recipe, dict) and given is chain[-1][1]
        known = known.also(_words(given) if users or is_package_file(path) else ())
    if not isinstance(recipe, dict) and Path(recipe).expanduser().is_dir():
        raw["out"] = str(recipe)  # a folder that was moved is still this run
        known = replace(known, folder=chain[-1][0].parent)
    file, given = chain[-1]
    others = is_package_file(file) or file.name == "settings.yaml"  # a run's
    return raw, known, frozenset() if others else frozenset(flat(given)), notes


def _change(raw: dict[str, Any], changes: dict[str, Any], of_a_run: bool = False) -> tuple[str, ...]:
    """Apply settings by dotted key to those that are there, a recipe's or a run's; return what else changes for it, a line each."""
    told = forget_replaced(raw, changes)
    shares, notes = ({}, ()) if of_a_run else as_shares(raw, changes)
    for key, value in (shares | changes).items():
        _put(raw, key, value)
    return told + notes


def settings_of_weights(raw: Any, folder: Path, words: Mapping[str, Any], *, trust: bool = False) -> Settings:
    """Join the settings that weights in ``folder`` name, untrusted as yet, and the user's own ``words``.

    Raises:
        MmardError: for settings that cannot be.
    """
    if not isinstance(raw, dict):
        raise MmardError(
            f"the weights in {folder} have settings of the kind {type(raw).__name__}, expected keys and values"
        )
    return _joined(copy.deepcopy(raw), words, Trust(everything=trust, folder=folder), own=True)


def _joined(
    raw: dict[str, Any], words: Mapping[str, Any], known: Trust, own: bool, said: frozenset[str] = frozenset()
) -> Settings:
    """Apply overrides by dotted key to plain settings, of which the user has ``said`` some, and validate the whole."""
    if not isinstance(words, Mapping):
        raise MmardError(f"settings are {shortened(words)}, expected keys and values, such as {{'train.lr': 0.1}}")
    given = plain(words, "setting")
    stand_once(given, "the settings given")
    changes = flat(given)
    if wrong := [key for key in changes if not all(key.split("."))]:
        raise MmardError(f"setting {shortened(wrong[0])} has an empty part; expected words with dots between: train.lr")
    notes = _change(raw, changes, of_a_run=known.folder is not None)
    if "train.epochs" in changes:
        said -= OF_LENGTH
    said |= changes.keys() if own else set()
    return validated(Settings, raw, "setting").trusting(known.also(_words(changes)) if own else known, said, notes)


def _words(overrides: dict[str, Any]) -> set[str]:
    """Collect what settings name: all texts, and the methods within them."""
    found: set[str] = set()
    for key, value in overrides.items():
        section, texts = str(key).split(".")[0], set(_texts(value))
        found |= texts | (names_of(value) if section == "method" else set())
        for text in texts if section in (*NETWORKS, "teachers") else ():
            if is_foreign(text):
                spec = NetworkSpec.of(text)
                found |= {spec.name, *_texts(dict(spec.parameters))}
    return found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def _network_parts(given: Any, key: str) -> Any:
    """Return a network's name and parameters as keys and values, so that one of them can be changed."""
    if given is None and key == "student":
        given = Settings.model_fields["student"].default
    if not isinstance(given, str):
        return given
    spec = NetworkSpec.of(given)
    own = {"mean": list(spec.mean), "std": list(spec.std), "key": spec.key, "weights": spec.weights}
    return {"name": spec.name, **spec.parameters, **{key: value for key, value in own.items() if value}}


def _put(raw: dict[str, Any], key: str, value: Any) -> None:
    if key == "teachers" and isinstance(value, dict) and "robust" in value:
        value = dict(value)
        raw["teacher"] = value.pop("robust")
    key = "teacher" if key == "teachers.robust" else key
    *parents, last = key.split(".")
    for parent in parents:
        inner = raw.get(parent)
        if parent in ("method", "base") and isinstance(inner, str):
            inner = spec_of(inner)
        if parent in NETWORKS or (parents[0] == "teachers" and parent != "teachers"):
            inner = _network_parts(inner, parent)
        if inner is not None and not isinstance(inner, dict):
            raise MmardError(f"{key}: {parent} is {inner!r} and has no parts")
        raw[parent] = inner if inner is not None else ({"name": "rslad"} if parent == "method" else {})
        raw = raw[parent]
    raw[last] = copy.deepcopy(value)  # what is written into it later is this run's alone
