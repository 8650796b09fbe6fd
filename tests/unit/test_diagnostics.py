"""The numbers of a diagnosis where they are known: linear models, hand-made verdicts, planes drawn by hand."""

import math

import pytest
import torch
from helpers import blobs
from torch import Tensor, nn

from mmard import MmardError, Threat, losses
from mmard.api.comparison import Comparison
from mmard.api.registry import build_method, label_of, method_specs
from mmard.diagnostics.boundary import BoundaryRecord, Drop, direct, look, searches_of, summary
from mmard.diagnostics.slices import axes, cut
from mmard.diagnostics.triangle import triangle
from mmard.methods import fair, igdm, mmard, rslad

pytestmark = pytest.mark.figures

EPS = 0.1
W = torch.randn(16, generator=torch.Generator().manual_seed(0))


def teacher(x: Tensor) -> Tensor:
    """Two classes; the margin of class 0 is 2 + ⟨w, x − grey⟩."""
    score = 2 + (x - 0.5).flatten(1) @ W
    return torch.stack([score, torch.zeros_like(score)], 1)


def pictures(n: int = 12) -> tuple[Tensor, Tensor]:
    """Images near grey, which the teacher calls class 0, and that class."""
    x = 0.45 + 0.1 * torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    return x, teacher(x).argmax(1)


def moved(x: Tensor, share: float) -> Tensor:
    """So much of the way to the point of the ball where the linear teacher's margin is least."""
    return x - share * EPS * W.sign().view(1, 4, 4)


def seen(x_adv: Tensor, own: Tensor) -> BoundaryRecord:
    return look(
        lambda x: -3 * teacher(x), teacher, x_adv, own, own, searches_of(2)
    )  # a student that contradicts the teacher


@pytest.mark.parametrize("share", [1, 3])  # before and beyond the boundary
def test_margin_distance_and_entropy_at_an_example_of_a_linear_teacher(share: int) -> None:
    x, own = pictures()
    boundary_records = seen(moved(x, share), own)
    margin = 2 + (x - 0.5).flatten(1) @ W - share * EPS * W.abs().sum()
    assert ((margin > 0) == (share == 1)).all()
    torch.testing.assert_close(boundary_records.margin, margin)
    torch.testing.assert_close(boundary_records.linf, margin.clamp_min(0) / W.abs().sum(), rtol=0.01, atol=1e-6)
    torch.testing.assert_close(boundary_records.l2, margin.clamp_min(0) / W.norm(), rtol=0.01, atol=1e-6)
    assert torch.equal(boundary_records.teacher_right, margin > 0)
    assert torch.equal(boundary_records.student_right, margin < 0)
    p = torch.sigmoid(margin)
    torch.testing.assert_close(boundary_records.entropy, -(p * p.log() + (1 - p) * (1 - p).log()))


def test_the_direct_attack_takes_all_that_a_linear_teacher_can_lose() -> None:
    x, own = pictures()
    x_star = direct(teacher, x, own, Threat(eps=EPS))
    torch.testing.assert_close(losses.margin(teacher(x_star), own), losses.margin(teacher(moved(x, 1)), own))
    assert (Threat(eps=EPS).distance(x_star, x) <= EPS + 1e-6).all()
    assert torch.equal(direct(teacher, x, own, Threat(eps=0)), x)


@pytest.mark.parametrize("part", [0.0, 0.25, 1.0, -0.5])
def test_the_share_of_the_possible_drop_is_how_far_one_went(part: float) -> None:
    x, own = pictures()
    natural, end, boundary_records = (seen(moved(x, s), own) for s in (0, 1, part))
    drop = Drop.of(natural, [end, boundary_records])
    share, error = drop.mean_share(boundary_records)
    assert share == pytest.approx(part, abs=1e-5)
    assert error == pytest.approx(0, abs=1e-5)
    torch.testing.assert_close(drop.share(boundary_records), torch.full((12,), part), rtol=0, atol=1e-4)
    gain, error = drop.mean_share(end, than=boundary_records)
    assert (gain, error) == pytest.approx((1 - part, 0), abs=1e-5)


def test_the_error_of_a_share_is_that_of_a_ratio_of_means() -> None:
    """Against the spread of the ratio over many draws of 100 samples."""
    torch.manual_seed(0)

    def draw() -> tuple[float, float]:
        possible = 0.2 + 3 * torch.rand(100)
        natural, nothing = torch.full((100,), 5.0), torch.zeros(100)
        lost = possible * (0.4 + 0.2 * torch.rand(100))
        at = [
            BoundaryRecord(natural - d, nothing, nothing, nothing, nothing, nothing) for d in (nothing, possible, lost)
        ]
        return Drop.of(at[0], at[1:]).mean_share(at[2])

    found = torch.tensor([draw() for _ in range(400)])
    assert found[:, 0].mean().item() == pytest.approx(0.5, abs=0.01)
    assert found[:, 1].mean().item() == pytest.approx(found[:, 0].std().item(), rel=0.1)


def verdicts(teacher_right: list[int], student_right: list[int], margin: list[float] | None = None) -> BoundaryRecord:
    zeros = torch.zeros(len(teacher_right))
    right = [torch.tensor(r, dtype=torch.bool) for r in (teacher_right, student_right)]
    return BoundaryRecord(
        zeros + 1 if margin is None else torch.tensor(margin), zeros, zeros + 0.5, zeros + math.inf, *right
    )


def test_transfer_fooled_and_crossed_count_who_they_say() -> None:
    """Image 0 was wrong for the student and 1 for the teacher; 2 to 5 right for both, of which 2, 3, 4 fool S and 2 fools T."""
    natural = verdicts([1, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1])
    adv = verdicts([1, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 1], [2.0, 1.0, -1.0, 1.0, 1.0, -3.0])
    row = summary(adv, natural, Drop.of(natural, [adv]))
    assert row["transfer"] == pytest.approx(1 / 3)
    assert row["fooling"] == 3
    assert row["fooled"] == pytest.approx(4 / 5)
    assert row["crossed"] == pytest.approx(2 / 6)
    assert (row["distance_linf"], row["distance_l2"], row["unreached_l2"]) == (0.5, None, 6)
    assert summary(natural, natural, Drop.of(natural, [adv]))["transfer"] is None


def test_the_triangle_of_networks_that_agree_for_certain_is_log_k_on_every_edge() -> None:
    sure = 100 * torch.eye(4).repeat(5, 1)
    found = triangle(sure, sure, sure, sure.roll(1, 1))
    for edge in ("nat_adv", "nat_teacher"):
        assert found[edge]["adjusted"] == pytest.approx(math.log(4), abs=1e-6)
    torch.manual_seed(0)
    strangers = [10 * torch.randn(400, 4) for _ in range(4)]
    for edge in triangle(*strangers).values():
        assert abs(edge["adjusted"]) < 0.03
        assert edge["error"] > 0
        assert edge["plain"] > edge["adjusted"]


def test_a_plane_is_orthonormal_and_holds_its_three_points() -> None:
    torch.manual_seed(0)
    x, x_adv, edge = (torch.rand(1, 4, 4) for _ in range(3))
    for points in ((x, x_adv, edge), (x, x + 2 * (edge - x), edge), (x, x, edge), (x, x_adv, x), (x, x, x)):
        first, second = axes(*points)
        basis = torch.stack([first, second])
        torch.testing.assert_close(basis @ basis.T, torch.eye(2), rtol=0, atol=1e-5)
        for point in points:
            delta = (point - points[0]).flatten()
            torch.testing.assert_close(delta @ basis.T @ basis, delta, rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_slice_of_a_linear_teacher_is_cut_by_a_straight_line_through_b(norm: str) -> None:
    threat = Threat(eps=EPS, norm=norm)  # type: ignore[arg-type]
    x = pictures(1)[0][0]
    edge = x - (teacher(x[None])[0, 0] / W.square().sum()) * W.view(1, 4, 4)
    x_adv = x + EPS * threat.steepest(-torch.rand(1, 1, 4, 4) + 0.3)[0]
    student = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).requires_grad_(False)
    piece = cut(student, teacher, x, x_adv, edge, threat, points=21)
    assert piece.edge == pytest.approx(((edge - x).norm().item(), 0), abs=1e-4)
    slope = piece.teacher_margin[0, 0] / (piece.edge[0] - piece.across[0])
    expected = (slope * (piece.edge[0] - piece.across)).expand(21, 21)  # b is nearest in L2: the line stands upright
    torch.testing.assert_close(piece.teacher_margin, expected, rtol=0, atol=1e-4)
    assert torch.equal(piece.teacher == 0, piece.teacher_margin > 0)
    assert piece.ball[10, 10] == pytest.approx(0, abs=1e-6)
    at = torch.tensor(piece.adv)
    assert at.norm().item() == pytest.approx((x_adv - x).norm().item(), rel=1e-4)
    first, second = axes(x, x_adv, edge)
    corner = x + (piece.across[3] * first + piece.up[17] * second).view_as(x)
    assert piece.ball[17, 3].item() == pytest.approx(threat.distance(corner[None], x[None]).item() / EPS, rel=1e-4)
    own = student(x[None]).argmax(1)
    assert piece.student_margin[17, 3].item() == pytest.approx(
        losses.margin(student(corner[None]), own).item(), abs=1e-4
    )
    assert piece.margins[1] == pytest.approx(losses.margin(teacher(x_adv[None]), torch.tensor([0])).item(), abs=1e-4)


def test_a_scene_measures_from_the_teachers_class_at_the_natural_image_batch_by_batch() -> None:
    images = blobs(10)
    torch.manual_seed(0)
    networks: dict[str, nn.Module] = {n: nn.Sequential(nn.Flatten(), nn.Linear(64, 4)) for n in ("student", "teacher")}
    scene = Comparison(networks, images, Threat(eps=0.1), 4, 0)
    x, y, _ = images.batch(slice(None))
    networks["teacher"].apply(lambda m: setattr(m, "bias", None))  # so that −x is of another class than x
    for points in (x, -x):
        boundary_records, t = scene.boundary_records(points), networks["teacher"](points)
        torch.testing.assert_close(boundary_records.margin, losses.margin(t, networks["teacher"](x).argmax(1)))
        assert torch.equal(boundary_records.teacher_right, t.argmax(1) == y)
        assert torch.equal(boundary_records.student_right, networks["student"](points).argmax(1) == y)
    assert (boundary_records.margin < 0).any()


def test_methods_are_named_as_python_would_call_them() -> None:
    text = "ard, mmard(base=ard(tau=4), inner=entropy, beta=2),file.py:build"
    specs = method_specs(text)
    assert specs["ard"] == "ard"
    nested = specs["mmard(base=ard(tau=4), inner=entropy, beta=2)"]
    assert nested == {"name": "mmard", "base": {"name": "ard", "tau": 4}, "inner": "entropy", "beta": 2}
    assert label_of(nested) == "mmard(base=ard(tau=4), inner=entropy, beta=2)"
    assert str(build_method(nested).inner) == "CE(S(x'), y) + 2·H(T(x'))"
    bare = method_specs("mmard(igdm(fair(rslad)), gamma=2)")  # a first part without a key is the base
    (spec,) = bare.values()
    assert spec == {"name": "mmard", "base": {"name": "igdm", "base": {"name": "fair", "base": "rslad"}}, "gamma": 2}
    assert str(build_method(next(iter(bare)))) == str(build_method(spec)) == str(mmard(igdm(fair(rslad())), gamma=2.0))
    assert str(build_method({"name": "mmard(igdm)", "gamma": 2})) == str(mmard(igdm(), gamma=2.0))
    with pytest.raises(MmardError, match="unknown method 'entropy'"):
        build_method("mmard(entropy)")
    odd = method_specs("awp( my dir/ü-x.py:build ,\n gamma = 8/255, begin=2026-13-01), peeraid(peer=cnn-8-3)")
    assert list(odd.values()) == [
        {"name": "awp", "base": "my dir/ü-x.py:build", "gamma": "8/255", "begin": "2026-13-01"},
        {"name": "peeraid", "peer": "cnn-8-3"},
    ]
    deep = 300 * "awp(" + 300 * ")"
    for wrong in ("mmard(inner=entropy", "mmard)", "mmard(beta=1, rslad)", " , ", "mmard(beta=)", deep):
        with pytest.raises(MmardError, match="is no method: expected brackets that match"):
            method_specs(wrong)
    with pytest.raises(MmardError, match=r"'entropy' in .* is no parameter; expected key=value"):
        method_specs("mmard(rslad, entropy)")
    with pytest.raises(MmardError, match="no methods given"):
        method_specs(" ")
