"""The training loop: a pure function of the seed, so that an interrupted run ends bit-equal to an unbroken one.

All randomness of a step comes from (seed, step, process), all of an epoch's order from (seed, epoch). A checkpoint
therefore holds no random state, and a resumed run repeats what it had not saved.
"""

import signal
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmard.core.method import Method
from mmard.core.threat import Threat
from mmard.core.views import held_still
from mmard.data.augment import LateAugmentation, augment, kind_at
from mmard.data.extra import Extra, named_by_teacher
from mmard.data.images import Images, ImageSet
from mmard.models.architectures import Classifier
from mmard.models.weights import save_weights
from mmard.runs.folder import RunFolder, describe_extension
from mmard.training.attack_state import prepare_attack, tell_guards
from mmard.training.averaging import Average, Averaging
from mmard.training.callbacks import Watcher
from mmard.training.clock import Clock
from mmard.training.engine import Engine
from mmard.training.extension import Extension
from mmard.training.fingerprint import identity_of, must_be_of
from mmard.training.loader import BatchLoader
from mmard.training.meter import LossMeter, must_be_finite
from mmard.training.micro_batch import MicroBatch, images_at_once
from mmard.training.schedule import Plan
from mmard.training.stopping import StopRequest
from mmard.training.update import Update
from mmard.training.validation import Validation, chosen_by, is_better, validation_batch
from mmard.training.variants import Variants, draw_variants
from mmard.utils.errors import MmardError, first_line, is_out_of_memory
from mmard.utils.numbers import seed_of
from mmard.utils.signals import Stopped, on_signals


@dataclass(kw_only=True)
class Trainer:
    """A trainer of one student.

    Args:
        method: the inner and the outer objective, and the attack.
        threat: the ball in which examples are made and evaluated.
        student: trained in place.
        train, held_out: the training set, in memory or on disk, and the images that choose the best checkpoint;
            moved to the engine's device.
        extra: images that take their share of each batch; without labels, ``teachers["teacher"]`` gives them theirs.
        folder: where checkpoints and metrics go.
        teachers: the other networks by name (``teacher`` and any other that the method needs); frozen here.
        plan, averaging, validation: schedule, weight average, evaluation on the held-out split.
        augmentation, late_augmentation: one of `mmard.data.augment.KINDS`, and what replaces it later.
        variants: of each image, drawn once (`mmard.training.variants`); None: drawn anew in each step.
        scale: the KL terms of the outer loss are multiplied by it (scripts that average KL over K classes: 1/K).
        micro_batch: images that a process sends through the networks at once, whose gradients add up; ``"auto"``: as many
            as fit; None: its whole share of the batch. ``compile``: see `mmard.training.update.Update`.
        checkpoint_every: also save after so many steps, not only after each epoch. ``pixels``: a digest of images without a name.
        metadata: written into the weights' header; its settings into the checkpoint, too.
        extension: what changes in a run that goes on by another plan.

    SIGTERM and SIGHUP, where they are not ignored, end the run after the step (or the part of a validation) that is being done: the
    checkpoint is saved first, and the signal is raised again.

    Raises:
        MmardError: from `fit`, when a batch does not fit, the loss is not finite, the disk is full or an image on disk
            cannot be decoded; the last good checkpoint stays.
    """

    method: Method
    threat: Threat
    student: Classifier
    train: ImageSet
    held_out: Images
    folder: RunFolder
    teachers: Mapping[str, nn.Module] = field(default_factory=dict)
    plan: Plan = field(default_factory=Plan)
    averaging: Averaging = field(default_factory=Averaging)
    validation: Validation = field(default_factory=Validation)
    engine: Engine = field(default_factory=Engine)
    augmentation: str = "none"
    late_augmentation: LateAugmentation | None = None
    variants: int | None = None
    scale: float = 1.0
    seed: int = 0
    micro_batch: MicroBatch = None
    compile: bool = False
    checkpoint_every: int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    extension: Extension | None = None
    extra: Extra | None = None
    pixels: str | None = None
    watcher: Watcher = field(default_factory=Watcher)

    def __post_init__(self) -> None:
        engine, plan, size = self.engine, self.plan, self.plan.batch_size
        self.train, self.held_out = self.train.to(engine.device), self.held_out.to(engine.device)
        self.loader = BatchLoader(images=self.train, batch_size=size, seed=self.seed, engine=engine, extra=self.extra)
        self.steps_per_epoch = self.loader.steps_per_epoch
        self.total = plan.epochs * self.steps_per_epoch
        self.made_with = identity_of(
            student=self.student, teachers=self.teachers, method=self.method, threat=self.threat, images=self.train,
            seed=self.seed, scale=self.scale, train=plan.model_dump(),
            averaging=self.averaging.model_dump(), validation=self.validation.identity(),
            data={
                "augment": self.augmentation, "augment_late": late.model_dump() if (late := self.late_augmentation) else None,
                "variants": self.variants, "pixels": self.pixels, **(self.extra.identity() if self.extra else {}),
            },
        )  # fmt: skip
        self.terms = prepare_attack(self.method, self.train, engine.device)
        self.update = Update(
            method=self.method, threat=self.threat, student=self.student, teachers=self.teachers, plan=plan,
            engine=engine, scale=self.scale, compile=self.compile, seed=self.seed, shape=self.train.shape,
        )  # fmt: skip
        self.beside = {companion.name: companion.net for companion in self.update.companions}
        self.average = Average(self.averaging.in_run_of(plan.epochs), self.student)
        self.meter, self.step, self.best = LossMeter(engine), 0, {"robust": -1.0, "clean": -1.0, "epoch": 0.0}
        self.validations_without_improvement, self.reached = 0, False
        self.at_once: int | None = None
        self.drawn: Variants | None = None
        self.restored, self.clock, self.stop = False, Clock(engine, self.loader, size), StopRequest(engine)
        self.history: list[dict[str, Any]] = []  # extensions
        self.record: dict[str, Any] | None = None  # the last line of the metrics
        self.pending: dict[str, float] | None = None  # the pace of an epoch whose end a signal cut off
        self.begun: dict[str, float] | None = None  # the clock of an epoch that a signal cut in two

    def fit(self) -> dict[str, float]:
        """Train to the end, from the folder's checkpoint where there is one; returns the best held-out accuracies."""
        self.restore()
        if self._is_over and self.pending is None:
            return self.best
        share, requested = self.plan.batch_size // self.engine.world, self.at_once or self.micro_batch
        self.at_once = images_at_once(self.update, self.train.shape, share, requested, begun=self.at_once is not None)
        if self.engine.choice:
            self.watcher.told(self.engine.choice)
        self.student.train()
        try:
            with on_signals(self.stop.ask):
                try:
                    self._train()
                finally:
                    with suppress(OSError):  # of a terminal that is gone
                        self.watcher.end()
        except Stopped as stopped:
            signal.raise_signal(stopped.number)  # the process ends as it would have
            raise
        except Exception as e:
            if not is_out_of_memory(e):
                raise
            raise MmardError(
                f"{self.at_once} images at once do not fit on {self.engine.device} ({first_line(e)}); "
                "engine.micro_batch=auto in a new out= finds how many do"
            ) from e
        return self.best

    def _train(self) -> None:
        try:
            self.watcher.begin(self.total, self.step)
            if self.pending is not None:
                self._end_epoch(self.pending)
            self.clock.start(self.step, self.begun if self.step % self.steps_per_epoch else None)
            if self.variants and not self._is_over:
                self.drawn = draw_variants(
                    self.train, self.augmentation, min(self.variants, self.plan.epochs), self.seed, self.update.constant,
                    self.engine, self.at_once or self.plan.batch_size, self._prepared,
                )  # fmt: skip
                self.clock.prepared()
            with closing(self.loader.batches(self.step, self.total)) as batches:
                for batch in () if self._is_over else batches:
                    self._one_step(*batch)
                    if self.step % self.steps_per_epoch == 0:
                        self._end_epoch(self.clock.pace(self.step))
                    elif self.checkpoint_every and self.step % self.checkpoint_every == 0:
                        self._save()
                    self.stop.look()
                    if self._is_over:
                        break
        except Stopped:
            self._save()
            raise

    def _prepared(self, done: int, total: int) -> None:
        self.watcher.prepared(done, total)
        self.stop.look()

    @property
    def _is_over(self) -> bool:
        return self.step == self.total or self.reached or self.validation.ends(self.validations_without_improvement)

    def _one_step(self, x: Tensor, y: Tensor, index: Tensor) -> None:
        progress = self.step / self.total
        torch.manual_seed(seed_of(self.seed, self.step, self.engine.rank))
        if self.extra and self.extra.labels is None:
            with held_still(*self.beside.values()):  # one that is trained is in training mode since the last step
                y = named_by_teacher(x, y, self.update.predictors)
        if self.drawn is not None:
            x, frame, known = self.drawn(x, index, self.step // self.steps_per_epoch)
        else:
            kind = kind_at(progress, self.plan.epochs, self.augmentation, self.late_augmentation)
            (x, frame), known = augment(x, kind), {}
        self.meter.add(self.step, self.update(x, y, index, progress, self.at_once, frame, known))
        self.step += 1
        self.average.update(self.step / self.total, self.step % self.steps_per_epoch == 0)
        self.watcher.stepped(self.step, self.plan.batch_size)

    def _end_epoch(self, pace: dict[str, float]) -> None:
        self._check_finite()
        epoch, self.pending = self.step // self.steps_per_epoch, pace
        record: dict[str, Any] = {"step": self.step, "epoch": epoch, "lr": self.update.optimizer.param_groups[0]["lr"]}
        record["terms"] = self.meter.means()
        record["loss"] = sum(value for name, value in record["terms"].items() if "/" not in name)  # the student's
        record |= {**pace, "precision": self.engine.precision, "device": self.engine.device_name}
        self.engine.average_buffers(*self._buffered())
        if epoch % self.validation.every == 0 or self.step == self.total:
            record |= self._judge_and_keep(epoch)
        self.meter = LossMeter(self.engine)
        self.record, self.pending = record, None
        self.engine.on_global_zero(lambda: self.folder.append(record))  # before the checkpoint: a repeat is dropped
        self._save()
        self.watcher.epoch_ended(record)
        self.clock.start(self.step)

    def _judge_and_keep(self, epoch: int) -> dict[str, Any]:
        """Validate on the held-out split; save the weights if they are the best so far, or the last."""
        torch.manual_seed(seed_of(self.seed, "statistics", epoch))  # of networks with dropout
        model = self.average.model_to_judge(self.stop.heeded(self.loader.natural()))
        teacher = self.beside.get("teacher") or self.teachers.get("teacher")
        part = validation_batch(self.plan.batch_size)
        part = min(part, self.at_once) if self.micro_batch and self.at_once else part
        validated = self.validation.judge(
            [model, teacher] if teacher else [model], self.held_out, self.threat, part=part, seed=self.seed,
            engine=self.engine, look=self.stop.look,
        )  # fmt: skip
        found = {"clean": validated["clean"], "robust": validated["robust"], "epoch": float(epoch)}
        images, natural = len(self.held_out), not self.method.inner
        by, gained = chosen_by(found, images, natural), "clean" if natural else "robust"
        better, self.reached = found[gained] > self.best[gained], self.validation.is_reached(found["robust"])
        self.validations_without_improvement = 0 if better else self.validations_without_improvement + 1
        if is_better(found, self.best, images, natural):
            self.best = found
            self._keep(self.folder.best_file, model, chosen_by=by)
        if self._is_over:
            self._keep(self.folder.last_file, model)
            for name, net in self.beside.items():
                if isinstance(net, Classifier):
                    self._keep(self.folder.path / f"{name}.safetensors", net)
        noticed = tell_guards(self.method, found, len(self.held_out.classes), self.engine)
        return {**validated, "chosen_by": by, **noticed}

    def _keep(self, path: Path, model: Classifier, **metadata: str) -> None:
        kept = {**self.metadata, **metadata, "epoch": self.step // self.steps_per_epoch}
        self.engine.on_global_zero(lambda: save_weights(path, model, kept, make_folder=False))

    def _check_finite(self) -> None:
        """Raise MmardError before anything is saved; the last update may break weights that no loss has seen yet."""
        self.meter.check()
        must_be_finite(self.step - 1, self.student, *self.terms, *self.beside.values())

    def _save(self) -> None:
        self._check_finite()
        state = {
            "buffers": self.engine.gather_buffers(*self._buffered()),
            "clock": self.clock.so_far(self.step) or self.begun,
            "student": self.student.state_dict(),
            "optimizer": self.update.optimizer.state_dict(),
            "average": self.average.state_dict(),
            "meter": self.meter.state_dict(),
            "step": self.step,
            "best": self.best,
            "looks_without_gain": self.validations_without_improvement,
            "reached": self.reached,
            "at_once": self.at_once,
            "precision": self.engine.precision,
            "companions": {companion.name: companion.state_dict() for companion in self.update.companions},
            "terms": [m.state_dict() for m in self.terms],
            "made_with": self.made_with,
            "settings": self.metadata.get("settings"),
            "history": self.history,
            "record": self.record,
            "pending": self.pending,
        }
        self.engine.on_global_zero(lambda: self.folder.save(state))

    def _buffered(self) -> list[nn.Module]:
        """List what has buffers that each process moves for itself."""
        return [self.student, *self.terms, *self.beside.values()]

    def restore(self) -> None:
        """Load the folder's checkpoint, where there is one and it has not been loaded.

        Raises:
            MmardError: for one that is damaged or of another run, and for an extension that is not clear.
        """
        if self.restored:
            return
        self.restored, state = True, self.folder.load()
        if state is not None:
            allowed = () if self.extension is None else self.extension.changed
            must_be_of(self.made_with, state.get("made_with"), self.folder.checkpoint_file, allowed)
            self._take_up(state)
        entry = None if self.extension is None or state is None else self._extended(self.extension)
        if self.step > self.total:
            raise MmardError(
                f"{self.folder.path} has done {self.step / self.steps_per_epoch:g} epochs, and train.epochs is "
                f"{self.plan.epochs}; expected no fewer than it has done"
            )
        self.engine.on_global_zero(lambda: self.folder.forget_after(self.step, self.record))
        if entry is not None:
            self.history = [*self.history, entry]
            self._save()  # from here on the checkpoint is of the new plan
            self.engine.on_global_zero(lambda: self.folder.keep_history(self.history))
            self.watcher.told(describe_extension(entry))

    def _extended(self, extension: Extension) -> dict[str, Any]:
        self.validation.must_go_on(self.reached)
        return extension.entry(
            self.step, self.steps_per_epoch, self.plan, self.averaging, self.validation, self.validations_without_improvement,
            self.method,
        )  # fmt: skip

    def _take_up(self, state: dict[str, Any]) -> None:
        """Load the parts of a checkpoint."""
        try:
            self.student.load_state_dict(state["student"])
            self.update.optimizer.load_state_dict(state["optimizer"])
            self.plan.apply_to(self.update.optimizer)
            self.average.load_state_dict(state["average"])
            for module, saved in zip(self.terms, state["terms"], strict=True):
                module.load_state_dict(saved)
            for companion in self.update.companions:
                companion.load_state_dict(state["companions"][companion.name])
            self.meter.load_state_dict(state["meter"])
            self.engine.take_buffers(state.get("buffers"), *self._buffered())
            self.begun = state.get("clock")
            self.step, self.best, self.at_once = state["step"], state["best"], state.get("at_once")
            self.validations_without_improvement = state.get("looks_without_gain", 0)
            self.reached, self.history = state.get("reached", False), state.get("history", [])
            self.record, self.pending = state.get("record"), state.get("pending")
            if begun := state.get("precision"):
                self.engine.choose_precision(begun)
        except (KeyError, ValueError, RuntimeError, TypeError, AttributeError, IndexError) as e:
            cure = "remove it to start anew, or choose another out="
            raise MmardError(f"{self.folder.checkpoint_file} is of another run: {first_line(e)}; {cure}") from e
