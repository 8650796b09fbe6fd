"""Labels of every kind people have: taken where they can mean only one thing, else one line that says what to do."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmard import MmardError
from mmard.data.images import Images
from mmard.data.labels import Known, agreed, in_order, renumbered

PIXELS = np.full((4, 1, 2, 2), 200, np.uint8)
RIGHT = torch.tensor([2, 0, 1, 2])
NAMES = ("ant", "bee", "cat")


@pytest.mark.parametrize(
    "labels",
    [
        RIGHT,
        RIGHT[:, None],
        RIGHT.numpy()[:, None].astype(np.uint8),
        RIGHT.float(),
        RIGHT.to(torch.bfloat16),
        RIGHT.double().numpy(),
        RIGHT.tolist(),
        RIGHT.numpy().astype(np.uint16),
    ],
)
def test_labels_that_can_mean_only_one_thing_are_taken(labels: Any) -> None:
    assert torch.equal(Images.of(PIXELS, labels, NAMES).labels, RIGHT)


def test_true_and_false_are_two_classes() -> None:
    assert Images.of(PIXELS, np.array([True, False, False, True]), ("no", "yes")).labels.tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (F.one_hot(RIGHT, 3), r"shape \(4, 3\) of 3 values a sample.*take \.argmax\(1\)"),
        (RIGHT + 0.9, r"hold 2\.9, expected whole class numbers from 0"),
        (np.array(["cat", "ant", "bee", "cat"]), r"hold words such as 'cat'.*number words by"),
        (np.array(["cat", None, "bee", "cat"], dtype=object), "hold words such as 'cat'"),
        (np.array([2.0, np.nan, 1, 2]), r"1 of 4 labels are missing \(NaN\)"),
        (np.array([2.0, np.inf, 1, 2]), r"labels lie in \[1, inf\]"),
        (RIGHT + 1, r"lie in \[1, 3\], expected 0 to 2; they begin with 1: subtract 1"),
        (RIGHT + 5, r"lie in \[5, 7\], expected 0 to 2"),
        (RIGHT - 1, r"lie in \[-1, 1\].*without labels"),
        (np.array(["2020-01-01"] * 4, dtype="datetime64[D]"), "hold datetime64"),
        (RIGHT.to(torch.complex64), "hold complex64"),
        ([[1], [2, 3], [1], [0]], "no array of numbers"),
        (None, "expected one class number each"),
        (7, "expected one class number each"),
        (RIGHT[:3], r"images of shape \(4, 1, 2, 2\) with 3 labels"),
    ],
)
def test_other_labels_are_one_line_at_the_door(labels: Any, words: str) -> None:
    with pytest.raises(MmardError, match=words) as caught:
        Images.of(PIXELS, labels, NAMES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (PIXELS.astype(np.uint16) * 257, "pixels are uint16, expected uint8, or floats in .0, 1.; divide by 65535"),
        (PIXELS.astype(np.int64), "pixels are int64"),
        (PIXELS.astype(bool), "pixels are bool"),
        (PIXELS.astype(np.float32) / 255 / 255, r"pixels are at most 0.003\d+, which is black"),
        ((PIXELS / 256.0).astype(np.uint8), "pixels are uint8 and at most 1"),
        (PIXELS.astype(np.float32) + 55, "lie in .255, 255., expected .0, 1.; divide by 255"),
        (PIXELS.astype(np.float64) * np.nan, "pixels lie in .nan, nan."),
        (np.zeros((4, 5, 6, 3)), r"channels last; expected \(N, C, H, W\)"),
        (np.array([["a"]]), r"images of shape \(1, 1\)"),
        ([np.zeros((1, 2, 2)), np.zeros((1, 3, 2))], "pixels are no array of numbers"),
    ],
)
def test_pixels_of_another_kind_are_one_line(pixels: Any, words: str) -> None:
    with pytest.raises(MmardError, match=words):
        Images.of(pixels, RIGHT, NAMES)


@pytest.mark.parametrize("classes", ["abc", ("a", "a", "b"), (0, 1, 2)])
def test_classes_are_names_each_once(classes: Any) -> None:
    with pytest.raises(MmardError, match="expected their names, each once"):
        Images.of(PIXELS, RIGHT, classes)


def test_images_made_by_hand_are_of_the_right_types() -> None:
    with pytest.raises(MmardError, match=r"Images\.of converts and checks"):
        Images(torch.rand(4, 1, 2, 2), RIGHT, NAMES, torch.arange(4))


def test_bfloat16_pixels_are_taken_as_floats() -> None:
    levels = torch.tensor([0.0, 0.5, 0.25, 1.0]).view(4, 1, 1, 1)
    assert Images.of(levels.to(torch.bfloat16), RIGHT, NAMES).pixels.flatten().tolist() == [0, 128, 64, 255]


def test_whole_numbers_are_in_order_of_number_and_words_of_letters() -> None:
    assert in_order(map(str, range(12))) == tuple(map(str, range(12)))
    assert in_order(["10", "9", "ten"]) == ("10", "9", "ten")


def test_labels_keep_their_name_in_another_order() -> None:
    order = ("cat", "ant", "bee")
    new = renumbered(RIGHT, NAMES, order)
    assert [order[k] for k in new] == [NAMES[k] for k in RIGHT]


def test_the_model_s_order_is_taken_and_said() -> None:
    with pytest.warns(
        UserWarning, match="t knows the classes in another order than the data .class 0 is 'cat' and not 'ant'"
    ):
        assert Known("t", ("cat", "ant", "bee")).order(NAMES) == ("cat", "ant", "bee")


def test_a_model_whose_classes_were_words_with_a_point_keeps_its_order_beside_numbers() -> None:
    """An older version took the labels of a CSV file, "10.0" and the like, for words, in alphabetical order."""
    old, numbers = tuple(sorted(f"{k}.0" for k in range(12))), tuple(map(str, range(12)))
    with pytest.warns(UserWarning, match="class 2 is '10' and not '2'.: labels follow the model's order"):
        assert Known("t", old).order(numbers) == tuple(sorted(numbers))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Known("t", old[:2]).order(numbers[:2]) == numbers[:2]
        assert Known("t", old).order(old) == old


def test_other_names_warn_but_not_where_one_side_has_only_numbers() -> None:
    with pytest.warns(UserWarning, match="class 1 is 'bird' there, 'bee' here"):
        assert Known("t", ("ant", "bird", "cat")).order(NAMES) == NAMES
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Known("t", ("0", "1", "2")).order(NAMES) == NAMES
        assert Known("t", NAMES).order(("0", "1", "2")) == ("0", "1", "2")
        assert Known("t").order(NAMES) == NAMES


def test_a_header_s_claims_that_cannot_be_true_are_no_claims() -> None:
    for names in (["a", "a"], ["a", 1], "ab", None, {"a": 1}, ["a"]):
        assert Known.of("t", names, 2, "three") == Known("t")


def test_models_must_know_one_order() -> None:
    one, same, other = Known("A", NAMES, 1), Known("B", NAMES, 3), Known("C", NAMES[::-1])
    assert agreed([Known("none"), one, same]) == Known("A", NAMES, 3)
    assert agreed([]) is None
    with pytest.raises(MmardError, match="A and C know the same classes in different orders"):
        agreed([one, other])
