"""Settings from a recipe and what is changed in it."""

import pytest

from mmard.api.settings import read_settings
from mmard.utils.errors import MmardError


def test_a_mapping_for_a_section_changes_the_keys_it_names_and_leaves_the_others() -> None:
    recipe, short = read_settings("digits-rslad"), {"epochs": 5}
    assert recipe.train.batch_size != read_settings(None).train.batch_size  # the recipe has its own
    changed = read_settings("digits-rslad", {"train": short})
    assert changed.train == recipe.train.model_copy(update=short)
    assert read_settings("digits-rslad", {"train": {}}).train == recipe.train


def test_a_mapping_for_a_section_with_an_unknown_key_is_one_line() -> None:
    with pytest.raises(MmardError, match=r"unknown setting 'train.epoch'; did you mean train.epochs"):
        read_settings(None, {"train": {"epoch": 5}})
