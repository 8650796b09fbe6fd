"""The jobs of a study: teachers that cells share first, then the cells; and which are done already."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmard.api.build import resolve
from mmard.api.settings import Settings
from mmard.api.train import UNIMPORTANT, must_be_free, teacher_of
from mmard.data.patterns import patterns_of
from mmard.evaluation.suite import choose_attacks, suite
from mmard.runs.evaluation import find_evaluation, is_complete, read_scores
from mmard.runs.folder import RunFolder, differences, epochs_done
from mmard.study.grid import Cell
from mmard.study.spec import Evaluation
from mmard.utils.errors import MmardError, Note


@dataclass(frozen=True)
class Job:
    """A run to make, in a process of its own.

    Attributes:
        evaluation: how to evaluate it; None for a teacher, which is only trained.
        needs: the name of the job that must have succeeded before.
    """

    name: str
    settings: Settings
    evaluation: Evaluation | None = None
    needs: str | None = None

    @property
    def folder(self) -> RunFolder:
        """Open its run folder."""
        return RunFolder(self.settings.out)

    @property
    def epochs(self) -> int:
        """Count the epochs it has done."""
        return epochs_done(self.folder.metrics())

    def state(self) -> str:
        """Tell its state: ``done``, ``part`` (it will go on) or ``new``."""
        done = is_done(self.folder, self.evaluation) if self.evaluation else self.folder.last_file.exists()
        return "done" if done else "part" if self.folder.has_run else "new"

    def errors(self) -> list[str]:
        """List the errors that the checks of its evaluation found; empty where there is no evaluation."""
        scores = scores_of(self.folder, self.evaluation) if self.evaluation else None
        return [] if scores is None else read_scores(scores).errors


def weights_of(folder: RunFolder, evaluation: Evaluation) -> Path:
    """Return the checkpoint that is evaluated."""
    return folder.last_file if evaluation.checkpoint == "last" else folder.best_file


def scores_of(folder: RunFolder, evaluation: Evaluation) -> Path | None:
    """Find the folder with the scores of exactly this evaluation; None where there are none."""
    return find_evaluation(folder.path, evaluation.checkpoint, evaluation.asked())


def is_done(folder: RunFolder, evaluation: Evaluation) -> bool:
    """Tell whether the run is at its end, and the scores and verdicts are those of its weights, by their digests."""
    scores = scores_of(folder, evaluation)
    return scores is not None and folder.last_file.exists() and is_complete(scores, weights_of(folder, evaluation))


def result_of(folder: RunFolder, evaluation: Evaluation) -> Path | None:
    """Find the scores of a cell that is done, or of which records alone are kept; None while it is trained or judged."""
    scores = scores_of(folder, evaluation)
    return None if folder.checkpoint_file.exists() and not is_done(folder, evaluation) else scores


def jobs_of(cells: Sequence[Cell], evaluation: Evaluation) -> list[Job]:
    """List all the jobs of a study, each after the one it waits for; checked as far as that is possible beforehand.

    Raises:
        MmardError: for an unknown attack, a fault in a cell's settings, a run folder that was made with other settings,
            or two cells that ask for different teachers in one folder.
    """
    choose_attacks(evaluation.attacks, suite())
    teachers: dict[Path, Job] = {}
    notes = dict[str, None]()
    jobs = []
    for cell in cells:
        job = Job(cell.name, cell.settings, evaluation)
        if job.state() != "done":
            notes |= dict.fromkeys(cell.settings.notes)
            try:
                one_device(cell.settings)
                resolve(cell.settings)
                job = Job(cell.name, cell.settings, evaluation, _teacher_first(cell.settings, teachers))
            except MmardError as e:
                raise MmardError(f"cell {cell.name}: {e}") from e
        jobs.append(job)
    for note in notes:
        warnings.warn(Note(note), stacklevel=2)
    jobs = [*teachers.values(), *jobs]
    must_be_ours(jobs)
    return jobs


def one_device(settings: Settings) -> None:
    """Raise MmardError unless a cell is for one device, which is what it gets."""
    if (n := settings.engine.devices * settings.engine.nodes) > 1:
        raise MmardError(f"engine.devices × engine.nodes is {n}; a study gives each cell one device: expected 1")


def must_have_data(jobs: Iterable[Job]) -> None:
    """Raise MmardError where the files of a job's data are not there: once, rather than in every cell."""
    for job in jobs:
        data = job.settings.data
        for key, given in (("train", data.train), ("test", data.test)):
            try:
                patterns_of(given or (), key)
            except MmardError as e:
                raise MmardError(f"{job.name}: {e}; a study names its data under settings") from e


def must_be_ours(jobs: Iterable[Job]) -> None:
    """Raise MmardError if a run folder was made with other settings, showing the differences of the first."""
    faults = []
    for job in jobs:
        try:
            must_be_free(job.folder, job.settings, resume=True)
        except MmardError as e:
            faults.append(str(e).replace("another out=", "another out: for the study, or remove the folder"))
    if faults:
        raise MmardError(faults[0] + (f" (and {len(faults) - 1} more folders)" if len(faults) > 1 else ""))


def _teacher_first(student_settings: Settings, teachers: dict[Path, Job]) -> str | None:
    """Name the job that trains this student's teacher, adding it where it is new; None if there is nothing to train."""
    if (teacher := teacher_of(student_settings)) is None:
        return None
    teacher_settings = teacher.settings
    place = Path(teacher_settings.out).expanduser().resolve()
    if place not in teachers:
        needs = _teacher_first(teacher_settings, teachers)
        teachers[place] = Job(f"teacher {teacher_settings.out}", teacher_settings, needs=needs)
    known = teachers[place]
    old, new = (s.model_dump(mode="json", exclude=UNIMPORTANT) for s in (known.settings, teacher_settings))
    if changed := differences(old, new):
        raise MmardError(
            f"another cell needs another teacher in {teacher_settings.out}: {'; '.join(changed)}; give each its own folder"
        )
    return known.name
