"""The images of runs, and what they make impossible: looked at before a teacher or another run is trained."""

import warnings

from mmard.api.build import Resolved, data_of, extra_of, known_of
from mmard.api.networks import build_student, has_a_recipe, is_trained, teachers_of
from mmard.api.settings import Settings
from mmard.data.images import DataSet
from mmard.data.labels import Known
from mmard.runs.folder import RunFolder
from mmard.training.loader import must_fill_a_batch
from mmard.utils.errors import MmardError


def must_fit_images(*runs: Resolved) -> None:
    """Raise MmardError for what a run's images, and not its settings alone, make impossible; warnings are left to the training."""
    read: dict[object, DataSet] = {}  # runs of one comparison have the same
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for run in runs:
            _must_fit(run, read)


def _must_fit(run: Resolved, read: dict[object, DataSet]) -> None:
    settings = run.settings
    awaited = settings.teacher and has_a_recipe(settings) and not is_trained(settings.teacher)
    there = settings.model_copy(update={"teacher": None}) if awaited else settings
    known = known_to(there, RunFolder(settings.out))
    which = str(settings.data), tuple(known), id(run.images)
    if which not in read:
        read[which] = data_to_learn(settings, known, run.images, stream=True)
    data = read[which]
    run.validation.must_ask_for_more_than(data.held_out.labels)
    must_fill_a_batch(run.plan.batch_size, len(data.train))
    extra_of(settings, data)
    if "student" not in run.given:
        build_student(settings, run.given, (len(data.train.classes), data.train.shape), ((), ()))


def data_to_learn(settings: Settings, models: list[Known], images: object = None, *, stream: bool = False) -> DataSet:
    """Load the data, ``images`` where a program gives them, with enough of them held out to choose a checkpoint on.

    Args:
        stream: leave the training images on disk: nobody learns from them.

    Raises:
        MmardError: as of `data_of`, and where a single image is held out.
    """
    data = data_of(settings, models, given=images, stream=stream)
    if len(data.held_out) < 2:
        count, some = len(data.train) + len(data.held_out), 5 * len(data.train.classes)
        raise MmardError(
            f"data.held_out={settings.data.held_out:g} of {count:,} training images leaves one to choose the best checkpoint on; "
            f"expected a few a class, such as data.held_out={min(0.5, some / count):.2g}"
        )
    return data


def known_to(settings: Settings, folder: RunFolder) -> list[Known]:
    """Collect what is known of the data, by this run where it resumes and by the networks that it learns from."""
    own = [known_of(folder.last_file, f"the run {folder.path}")] if folder.last_file.is_file() else []
    return own + [known_of(source, f"the {name} {source}") for name, source in teachers_of(settings).items()]
