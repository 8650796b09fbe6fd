"""`mmard.Distiller`: the trainer's loss and gradients in a loop of one's own, which it leaves as it found it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import blobs, small_net
from torch import Tensor, nn

import mmard
from mmard import Distiller, Method, MmardError, Threat
from mmard.methods import METHODS, adr, ard, awp, ciard, fair, igdm, peeraid, rslad
from mmard.training.companions import TrainedCompanion
from mmard.training.engine import Engine
from mmard.training.schedule import Plan
from mmard.training.update import Update
from mmard.utils.errors import Note

THREAT, STEPS, EPOCHS = Threat(eps=0.1), 6, 3
COMPOSED: dict[str, Callable[[], Method]] = {
    **METHODS,
    "ciard from the start": lambda: ciard(begin=0.0),
    "ard attacks in training mode": lambda: ard(attack_in_train_mode=True),
    "adr attacks in training mode": lambda: adr(attack_in_train_mode=True),
    "awp of a peer": lambda: awp(peeraid(), gamma=0.05),
    "all": lambda: awp(mmard.methods.mmard(igdm(fair(ciard(begin=0.4)), alpha=1.0), inner="drift"), begin=0.2),
}


def net(seed: int, name: str = "cnn-4-2") -> nn.Module:
    """In the trainer's layout of memory: sums of another order would round otherwise."""
    return small_net(seed=seed, name=name).to(memory_format=torch.channels_last)


def networks() -> dict[str, nn.Module]:
    return {name: net(seed) for seed, name in enumerate(("teacher", "natural"), 1)}


def batch(n: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    return blobs(n).batch(slice(None))


def distiller(method: Any = "rslad", student: nn.Module | None = None, **given: Any) -> Distiller:
    return Distiller(method, student or net(0), net(1), THREAT, **{"steps": STEPS, "epochs": EPOCHS, **given})


@pytest.mark.figures
@pytest.mark.parametrize("name", COMPOSED)
def test_losses_and_gradients_are_the_trainers(name: str) -> None:
    """Bit-equal over some steps, each with an SGD of one's own on the one hand and the trainer's on the other."""
    plan = Plan(epochs=EPOCHS, batch_size=16, lr=0.05, schedule="constant", weight_decay=0.0, momentum=0.0)
    x, y, index = batch()
    theirs = Update(
        method=COMPOSED[name](), threat=THREAT, student=net(0).train(), teachers=networks(), plan=plan, engine=Engine("cpu"),
        shape=x.shape[1:],
    )  # fmt: skip
    student = net(0).train()
    given = networks()
    own = Distiller(COMPOSED[name](), student, given.pop("teacher"), THREAT, teachers=given, steps=STEPS, epochs=EPOCHS)
    groups: list[dict[str, Any]] = [{"params": list(student.parameters())}]
    trained = [c for c in theirs.companions if isinstance(c, TrainedCompanion)]
    groups += [{"params": list(c.net.parameters()), "lr": c.plan.lr, "momentum": c.plan.momentum} for c in trained]
    for companion in own.companions.values():
        companion.to(memory_format=torch.channels_last)
    if theirs.learned:
        own.prepare(x)
        groups[0]["params"] += own.parameters()
    if len(groups) > 1:
        groups[1]["params"] = list(own.parameters())
    optimizer = torch.optim.SGD(groups, lr=0.05)
    for step in range(STEPS):
        torch.manual_seed(step)
        expected = theirs(x, y, index, step / STEPS)
        torch.manual_seed(step)
        optimizer.zero_grad()
        loss, log = own.step(x, y, index)
        loss.backward()
        assert {k: v.item() for k, v in log.items()} == {k: v.item() for k, v in expected.items()}
        for a, b in zip(student.parameters(), theirs.student.parameters(), strict=True):
            assert torch.equal(a.grad, b.grad)
        for companion in trained:
            if companion.begin <= step / STEPS < 1 and companion.plan.schedule == "constant":
                mine = own.companions[companion.name].parameters()
                assert all(torch.equal(a.grad, b.grad) for a, b in zip(mine, companion.net.parameters(), strict=True))
            for group in optimizer.param_groups[1:]:
                group["lr"] = companion.plan.lr_at((step / STEPS - companion.begin) / (1 - companion.begin))
        optimizer.step()
        for a, b in zip(student.state_dict().values(), theirs.student.state_dict().values(), strict=True):
            assert torch.equal(a, b)


def changed(module: nn.Module, before: dict[str, Tensor]) -> list[str]:
    return [name for name, t in module.state_dict().items() if not torch.equal(t, before[name])]


def frozen_copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in module.state_dict().items()}


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_a_validation_takes_gradients_by_itself_and_changes_nothing(off: Callable[[], Any]) -> None:
    """As Lightning calls it: without gradients, or in inference mode, whose tensors no graph may hold."""
    student = net(0).train()
    next(student.parameters()).requires_grad_(False)  # the caller's own choice
    own = distiller("awp(mtard)", student, teachers={"natural": net(2)})
    before, wanted = frozen_copy(student), [p.requires_grad for p in student.parameters()]
    x, y, _ = batch()
    with off():
        x, y = x.clone(), y.clone()
        x_adv = own.attack(x, y)
        loss, log = own.step(x, y)
        right = (student(x_adv).argmax(1) == y).float().mean()
    assert (x_adv - x).abs().max() <= THREAT.eps + 1e-6
    assert (x_adv - x).abs().max() > 0.5 * THREAT.eps
    assert 0 <= right <= 1
    assert not loss.requires_grad
    assert torch.equal(loss, torch.stack(list(log.values())).sum())
    assert (own.step_number, student.training) == (0, True)
    assert [p.requires_grad for p in student.parameters()] == wanted
    assert set(changed(student, before)) <= {
        n for n in before if "running" in n or "num_batches" in n
    }  # student(x_adv) above
    begun = distiller("awp(mtard)", teachers={"natural": net(2)}).state_dict()["terms"]
    for term, other in zip(own.state_dict()["terms"], begun, strict=True):
        assert all(torch.equal(term[key], other[key]) for key in term)
    own.step(x, y)[0].backward()  # tensors of an inference are taken for training, too
    assert own.step_number == 1


def test_the_attack_leaves_batchnorm_modes_and_gradients_alone() -> None:
    student = net(0).train()
    before, (x, y, _) = frozen_copy(student), batch()
    own = distiller("rslad", student)
    own.attack(x, y)
    assert changed(student, before) == []
    own.step(x, y)
    assert all(module.training for module in student.modules())
    assert all(p.grad is None and p.requires_grad for p in student.parameters())
    counts = [b for name, b in student.named_buffers() if "num_batches" in name]
    assert counts
    assert all(count == 2 for count in counts)  # x and x' of the outer loss, and no pass of the attack


def test_a_state_goes_on_where_it_ended() -> None:
    def some(own: Distiller, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
        found = []
        for step in steps:
            torch.manual_seed(step)
            optimizer.zero_grad()
            loss, _ = own.step(*batch())
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    def begun() -> tuple[nn.Module, Distiller, torch.optim.Optimizer]:
        student = net(0).train()
        own = distiller("fair(ciard(begin=0.4))", student, teachers={"natural": net(2)})
        return student, own, torch.optim.SGD([*student.parameters(), *own.parameters()], lr=0.05)

    _, own, optimizer = begun()
    whole = some(own, optimizer, range(STEPS))
    student, own, optimizer = begun()
    some(own, optimizer, range(3))
    kept = {"student": frozen_copy(student), "own": own.state_dict()}
    student, own, optimizer = begun()
    student.load_state_dict(kept["student"])
    own.load_state_dict(kept["own"])
    assert some(own, optimizer, range(3, STEPS)) == whole[3:]
    with pytest.raises(MmardError, match=r"the state is no Distiller's of this method"):
        distiller("rslad").load_state_dict(kept["own"])
    for method, step in (("mmard", 1), ("rslad", -5)):
        with pytest.raises(MmardError, match=r"the state is no Distiller's"):
            distiller("rslad").load_state_dict({**distiller(method).state_dict(), "step": step})


def test_a_network_that_the_method_does_not_ask_for_is_noted() -> None:
    with pytest.warns(Note, match="this method asks for no network named 'natural'"):
        distiller("rslad", teachers={"natural": net(2)})
    with pytest.warns(Note, match="this method asks for no network named 'teacher'"):
        distiller("pgd_at")


def test_double_images_are_taken() -> None:
    x, y, _ = batch()
    loss, _ = distiller().step(x.double(), y)
    assert loss.isfinite()


@pytest.mark.figures
@pytest.mark.filterwarnings("ignore:this CPU has no bf16")
def test_autocast_is_the_networks_alone() -> None:
    """The caller's autocast gives what the trainer's bf16-mixed does: logits in half precision, attacks and losses in float32."""
    x, y, index = batch()
    plan = Plan(epochs=EPOCHS, batch_size=16, lr=0.0, weight_decay=0.0)
    theirs = Update(
        method=rslad(), threat=THREAT, student=net(0).train(), teachers={"teacher": net(1)}, plan=plan,
        engine=Engine("cpu", precision="bf16-mixed"), shape=x.shape[1:],
    )  # fmt: skip
    torch.manual_seed(0)
    expected = theirs(x, y, index, 0.0)
    student = net(0).train()
    own = distiller("rslad", student)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, log = own.step(x, y)
    loss.backward()
    assert loss.dtype == torch.float32
    assert {k: v.item() for k, v in log.items()} == {k: v.item() for k, v in expected.items()}
    for a, b in zip(student.parameters(), theirs.student.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_wrapped_students_and_any_module(tmp_path: Any) -> None:
    """DistributedDataParallel, what is no Classifier, and a teacher that moves while the student learns."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/one", rank=0, world_size=1)
    try:
        x, y, _ = batch()
        plain = net(0).train()
        wrapped = nn.parallel.DistributedDataParallel(copy.deepcopy(plain))
        for student in (plain, wrapped):
            torch.manual_seed(0)
            distiller("awp(rslad)", student).step(x, y)[0].backward()
        for a, b in zip(plain.parameters(), wrapped.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad)
    finally:
        torch.distributed.destroy_process_group()


class Half(nn.Module):
    """A network that computes in half precision by itself, and BatchNorm in it that can be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).bfloat16()  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("make", [Half, lambda: torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)))])
def test_teachers_that_are_scripted_or_compute_in_half_precision(make: Callable[[], nn.Module]) -> None:
    x, y, _ = batch()
    teacher = make()
    loss, _ = Distiller("rslad", net(0), teacher, THREAT).step(x, y)
    assert loss.isfinite()
    assert not any(p.requires_grad for p in teacher.parameters())


def test_a_teacher_that_moves_is_followed_and_kept_in_evaluation_mode() -> None:
    """Such as an average of the student's own weights: a folded copy of it would stay behind."""
    x, y, _ = batch()
    student = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4)).train()
    student(x)
    teacher = copy.deepcopy(student.eval())
    own = Distiller("rslad", student, teacher, THREAT)
    first = own.step(x, y)[1]["soft_nat"]
    teacher.train()  # as Lightning does with all that it knows
    for p in teacher.parameters():
        p.data.sub_(1.0)  # past torch's own count of changes
    now = own.step(x, y)[1]["soft_nat"]
    assert now == Distiller("rslad", student, copy.deepcopy(teacher), THREAT).step(x, y)[1]["soft_nat"] != first
    assert not any(module.training for module in teacher.modules())


def test_a_network_given_by_name_and_parts_of_the_attack(digits_teacher: Any) -> None:
    student = small_net(classes=10)
    few = Distiller("rslad", student, str(digits_teacher), THREAT, attack={"steps": 3})
    assert str(few.method.maximizer).startswith("PGD-3 ")
    x, y, _ = batch()
    loss, log = few.step(x, y)
    assert loss.requires_grad
    assert list(log) == ["soft_adv", "soft_nat"]


class Broken(nn.Module):
    """A network whose logits of the first image are infinite."""

    def forward(self, x: Tensor) -> Tensor:
        logits = x.flatten(1)[:, :4].clone()
        logits[0, 1] = -torch.inf
        return logits


class Named(nn.Module):
    """A network that gives its logits by another name than ``logits``."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"scores": x.flatten(1)[:, :4]}


def exported() -> nn.Module:
    module: nn.Module = torch.export.export(net(1).eval(), (batch()[0],)).module()
    return module


def bad(method: Any = "rslad", **given: Any) -> Callable[[], object]:
    args = {"student": net(0), "teacher": net(1), "threat": THREAT, **given}
    return lambda: Distiller(method, **args).step(*batch())


def on(x: Any = None, y: Any = None) -> Callable[[], object]:
    images, labels, _ = batch()
    given = images if x is None else x(images) if callable(x) else x
    return lambda: distiller().step(given, labels if y is None else y(labels) if callable(y) else y)


def test_a_teacher_is_no_part_of_the_student(tmp_path: Any) -> None:
    """Frozen with the teacher, the student's own layers would not learn, and nothing would say so."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    student = nn.Sequential(body, nn.Linear(4, 4))
    for teacher in (body, student):
        with pytest.raises(MmardError, match=r"the student and the teacher share \d weights, such as 0\.1\.weight"):
            Distiller("rslad", student, teacher, THREAT)
        with pytest.raises(MmardError, match=r"give a copy as the teacher: copy.deepcopy\(net\)"):
            mmard.distill(student, teacher, blobs(80), threat=THREAT, out=tmp_path, train__batch_size=16)
        assert all(p.requires_grad for p in student.parameters())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (bad(student="resnet18"), "student is 'resnet18', expected an instance of Module"),
        (bad(teacher=3), "the teacher is 3, expected a torch.nn.Module, a run folder, weights or a card"),
        (bad(teacher=None), "the method asks for a 'teacher' model"),
        (bad("mtard"), "the method asks for a 'natural' model"),
        (bad("rslda"), "unknown method 'rslda'; did you mean rslad"),
        (bad(threat=0.1), "threat is 0.1, expected an instance of Threat"),
        (bad(steps=0), "steps is 0, expected a whole number"),
        (bad(attack={"step": 3}), "unknown attack setting 'step'; did you mean steps"),
        (bad(attack={"warm_start": True}), "attack warm_start needs what only a run knows"),
        (bad("mtard", teachers={"natural": net(2)}), r"asks how far training is.*Distiller\(\.\.\., steps=\)"),
        (bad("igdm(rslad)"), "asks how far training is"),
        (bad("igdm(rslad)", steps=4), r"counts epochs.*Distiller\(\.\.\., epochs=\)"),
        (bad("absld", steps=4), "counts epochs"),
        (bad("fair(rslad)", attack={"stop_at": "student"}), "fair counts how many of all its iterates are right"),
        (bad("fair(rslad)", steps=4), "counts epochs"),
        (bad("awp(rslad, begin=0.5)"), "asks how far training is"),
        (bad("ciard", teachers={"natural": net(2)}), "begins later; give"),
        (bad("awp(rslad, begin=10)", steps=1000), r"counts epochs.*Distiller\(\.\.\., epochs=\)"),
        (bad("rebat", steps=1000), "counts epochs"),
        (bad(student=small_net(classes=3)), "of different numbers of classes: the student 3, the teacher 4"),
        (bad(student=nn.Identity()), r"the student gives \(2, 1, 8, 8\) for 2 images: not a fit"),
        (bad(student=nn.Sequential(nn.Flatten(), nn.Linear(9, 4))), "the student fails on images .2, 1, 8, 8.: RuntimeError"),
        (bad(teacher=nn.Sequential(nn.Flatten(), nn.LazyLinear(4))), "the weights of the teacher are of a lazy module"),
        (bad(teacher=small_net().to("meta")), "the weights of the teacher are on the device meta"),
        (bad(student=nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).double()), "its weights are float64, expected float32: call"),
        (bad(teacher=nn.Sequential(net(1), nn.Softmax(1))), "the teacher gives probabilities, expected logits"),
        (bad(teacher=Broken()), "the teacher gives logits that are not finite on 1 of 2 images"),
        (bad(teacher=Named()), "the teacher gives a dict, expected logits"),
        (bad(teacher=exported()), "made by torch.export has one mode for good"),
        (bad(teacher=small_net(channels=3)), "images have 1 channels, the model takes 3"),
        (on(x=lambda x: (x * 255).to(torch.uint8)), r"x is torch.uint8, expected floats in \[0, 1\]; x.float\(\) / 255"),
        (on(x=lambda x: (x - 0.5) / 0.2), r"pixels lie in \[.*normalise inside the network"),
        (on(x=lambda x: x[0]), r"x is \(1, 8, 8\), expected a tensor of images"),
        (on(x=lambda x: x.numpy()), "expected a tensor of images"),
        (on(y=lambda y: y + 1), "labels are from 1 to 4, and the networks have 4 classes, 0 to 3"),
        (on(y=lambda y: y - 1), "labels are from -1 to 2"),
        (on(y=lambda y: y[:3]), r"y is torch.int64 \(3,\), expected a tensor of labels \(16,\)"),
        (on(y=lambda y: y.float()), r"y is torch.float32 \(16,\), expected a tensor of labels"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(wrong: Callable[[], object], words: str) -> None:
    with pytest.raises(MmardError, match=words) as found:
        wrong()
    assert "\n" not in str(found.value)


def test_what_learns_beside_the_student_comes_with_its_methods_own_rates() -> None:
    of_ciard = distiller("ciard", teachers={"natural": net(2)}).parameter_groups()
    assert [{k: v for k, v in group.items() if k != "params"} for group in of_ciard] == [
        {"lr": 1e-4, "momentum": 0.1, "nesterov": False}
    ]
    torch.optim.SGD([{"params": net(0).parameters()}, *of_ciard], lr=0.1, momentum=0.9)
    of_peer = distiller(peeraid(peer_settings={"lr": 0.01}), teachers={"peer": net(3)})
    (group,) = of_peer.parameter_groups()
    assert group["lr"] == 0.01
    assert [id(p) for p in group["params"]] == [id(p) for p in of_peer.parameters()]
    assert not distiller().parameter_groups()


def test_making_one_leaves_the_generators_of_accelerators_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU every loop would begin with the same noise, whatever seed its caller had set."""
    seeded, student, teacher = list[int](), net(0), net(1)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    Distiller("rslad", student, teacher, THREAT)
    assert not seeded


def test_one_step_too_many_is_a_warning() -> None:
    own = distiller(steps=1)
    own.step(*batch())
    with pytest.warns(UserWarning, match="this is step 2 of steps=1"):
        own.step(*batch())


def some_steps(method: str, part: slice, wrap: Callable[[nn.Module], nn.Module]) -> Tensor:
    """The gradient after three steps, of a network without BatchNorm, whose statistics would be each process's own."""
    x, y, _ = batch()
    student = wrap(small_net(name="vit-8-1-4").train())
    own = distiller(method, student, teachers={"natural": net(2)}, attack={"start": "none"})
    for _ in range(3):
        student.zero_grad()
        own.step(x[part], y[part])[0].backward()
    return torch.cat([p.grad.flatten() for p in student.parameters()])


def one_of_two(rank: int, folder: str, methods: list[str]) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/two", rank=rank, world_size=2)
    half = slice(8 * rank, 8 * rank + 8)
    found = {method: some_steps(method, half, nn.parallel.DistributedDataParallel) for method in methods}
    with pytest.raises(
        MmardError, match="trains the network 'peer' beside the student, and a loop of one's own has it in one"
    ):
        distiller("peeraid")
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_descend_as_one_with_the_whole_batch(tmp_path: Any) -> None:
    methods = ["rslad", "awp(rslad)", "mtard", "fair(rslad)"]  # the last two have state that all processes share
    torch.multiprocessing.spawn(one_of_two, (str(tmp_path), methods), nprocs=2)
    for rank in (0, 1):
        for method, gradient in torch.load(tmp_path / f"{rank}.pt").items():
            torch.testing.assert_close(
                gradient, some_steps(method, slice(None), lambda network: network), rtol=1e-4, atol=1e-5
            )


def test_with_gradient_accumulation_an_average_takes_the_root_of_its_decay() -> None:
    """Two calls of step for one update of the weights: with .9, the root of .81, the average keeps .81 of itself."""
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    own = Distiller(METHODS["adr"](decay=0.9), student, None, THREAT, steps=STEPS, epochs=EPOCHS)
    x, y, _ = batch()
    before = copy.deepcopy(student.state_dict())
    for part in range(4):
        own.step(x, y)
        if part == 1:  # the parts of one update are done
            with torch.no_grad():
                student[1].weight += 1
    kept = own.companions["average"].state_dict()
    torch.testing.assert_close(kept["1.weight"], 0.81 * before["1.weight"] + 0.19 * student.state_dict()["1.weight"])
