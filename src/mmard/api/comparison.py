"""Comparison of methods on the same student, teacher, images and random starts."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmard.api.build import ball_of_examples, data_of, known_of, method_of
from mmard.api.networks import load_early, load_teachers, teachers_of
from mmard.api.settings import Settings
from mmard.core.companion import Learned
from mmard.core.method import Method
from mmard.core.threat import Threat
from mmard.core.views import Models, Views
from mmard.data.images import Images, ImageSet, some
from mmard.diagnostics.boundary import BoundaryRecord, direct, look, searches_of
from mmard.diagnostics.triangle import triangle
from mmard.models.architectures import Classifier
from mmard.models.cards import load_model, must_fit
from mmard.models.folding import folded
from mmard.training.channels_last import lay_out
from mmard.training.engine import Engine
from mmard.training.learned import begin_learned, watch_features
from mmard.training.step import make_example
from mmard.utils.errors import MmardError


@dataclass(frozen=True, eq=False)
class Brought:
    """The images, and a network like the student, that a Python program gives in place of what settings name."""

    images: Any = None
    module: nn.Module | None = None

    def load(self, weights: Path, trust: bool = False) -> Classifier:
        """Load a student's weights, into a copy of the module where there is one."""
        return load_model(weights, copy.deepcopy(self.module), trust=trust)


@dataclass(frozen=True, eq=False)
class Comparison:
    """The networks in evaluation mode, the images, and the ball; the same for every method.

    Attributes:
        networks: student, teacher and any others that the run's method needs, on one device.
        ball: in which all examples are made, and the direct attack on the teacher.
        seed: of the random starts: batch i of every method begins from seed + i.
    """

    networks: dict[str, nn.Module]
    images: Images
    ball: Threat
    batch_size: int
    seed: int
    brought: Brought = Brought()

    @staticmethod
    def of(
        settings: Settings, weights: Path, split: str, limit: int, batch_size: int, seed: int, brought: Brought = Brought()
    ) -> "Comparison":  # fmt: skip
        """Load the networks and the images."""
        sources = teachers_of(settings)
        known = [known_of(weights, f"the student {weights}")]
        known += [known_of(source, f"the {name} {source}") for name, source in sources.items()]
        student, nets = brought.load(weights, settings.trust.everything), load_early(settings, {})
        data = data_of(settings, known, stream=True, given=brought.images)  # few of them are used
        whole: ImageSet = {"held-out": data.held_out, "test": data.test, "train": data.train}[split]
        if len(whole) < 2:
            raise MmardError(f"the {split} split has {len(whole)} image, expected at least 2; try another split")
        shape = len(whole.classes), whole.channels
        must_fit(student, str(weights), *shape)
        device = Engine().device  # it may be another machine than the training's
        loaded = {"student": student} | load_teachers(settings, {}, nets, (shape[0], whole.shape))
        method = method_of(settings)
        for name in method.companions.keys() - loaded:  # those that the run trained, or averaged, from nothing
            if (file := weights.with_name(f"{name}.safetensors")).is_file():
                loaded[name] = load_model(file, trust=settings.trust.everything)
        for network in loaded.values():
            lay_out(network, device, whole.shape)
        return Comparison(
            {**loaded},
            some(whole, limit, seed=0).in_memory().to(device),
            ball_of_examples(settings, method),
            batch_size,
            seed,
            brought,
        )

    def with_student(self, weights: Path) -> "Comparison":
        """Replace the student by another checkpoint."""
        student = self.brought.load(weights)
        lay_out(student, self.images.labels.device, self.images.shape)
        return replace(self, networks={**self.networks, "student": student})

    def batches(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Yield each batch: its number, x (B, C, H, W), y (B,), index (B,)."""
        for i, start in enumerate(range(0, len(self.images), self.batch_size)):
            yield i, *self.images.batch(slice(start, start + self.batch_size))

    def begin(self, *methods: Method) -> None:
        """Make what learns in these methods' inner attacks, as before a first step."""
        for method in methods:
            if any(isinstance(module, Learned) for module in method.inner.modules()):
                watch_features(method, *self.networks.values())
                begin_learned(method, self.networks, self.images.batch(slice(2))[0], self.seed)

    def examples(self, method: Method) -> Tensor:
        """Make x' of every image by this method's inner attack, at the end of training (progress 1)."""
        network = self.networks["student"]
        network = copy.deepcopy(network) if method.attack_in_train_mode else folded(network)  # BatchNorm would move
        watch_features(method, network, *self.networks.values())
        method = replace(method, eps=None)
        models = Models({**{name: folded(net) for name, net in self.networks.items()}, "student": network})
        made = []
        for i, x, y, index in self.batches():
            torch.manual_seed(self.seed + i)
            made.append(make_example(method, Views.of(x, y, index, models, 1.0), network, self.ball).adv.x)
        return torch.cat(made)

    def logits(self, name: str, images: Tensor) -> Tensor:
        """Compute a network's logits (N, K) of these images."""
        with torch.no_grad():
            return torch.cat([self.networks[name](x) for x in torch.split(images, self.batch_size)])

    def triangle(self, x_adv: Tensor) -> dict[str, dict[str, float]]:
        """Estimate the triangle's mutual informations between the natural images and these examples."""
        x = self.images.batch(slice(None))[0]
        return triangle(*(self.logits(name, at) for name in ("student", "teacher") for at in (x, x_adv)))

    def boundary_records(self, points: Tensor) -> BoundaryRecord:
        """Measure these points (N, C, H, W), one for each image, against the teacher's boundary."""
        student, teacher, parts = self.networks["student"], folded(self.networks["teacher"]), []
        searches = searches_of(len(self.images.classes))
        for i, x, y, _ in self.batches():
            torch.manual_seed(self.seed + i)
            x_adv = points[i * self.batch_size :][: len(x)]
            parts.append(look(student, teacher, x_adv, y, teacher(x).argmax(1), searches))
        return BoundaryRecord.joined(parts)

    def direct(self) -> Tensor:
        """Attack the teacher directly: x* of every image."""
        teacher, found = folded(self.networks["teacher"]), []
        for i, x, _, _ in self.batches():
            torch.manual_seed(self.seed + i)
            found.append(direct(teacher, x, teacher(x).argmax(1), self.ball))
        return torch.cat(found)
