"""Old names of options are read for one more version."""

import pytest

from cgcl_fast.data import open_dataset
from cgcl_fast.methods import METHODS
from cgcl_fast.methods.options import Config
from cgcl_fast.methods.registry import RENAMED, with_new_names

MOVED = {
    "cgl": ("min_object", "gp_min", "gp_max"),
    "cgcl": ("min_object", "gp_min"),
    "sincut": ("min_width", "max_width"),
}


def test_every_new_name_is_an_option() -> None:
    fields = {name for method in METHODS.values() for name in method.Config.__dataclass_fields__}
    assert set(RENAMED.values()) <= fields and not set(RENAMED) & fields


@pytest.mark.parametrize("method", MOVED)
def test_old_names_of_a_run_are_read_with_a_warning(method: str) -> None:
    old = {old: 8 for old, new in RENAMED.items() if new in MOVED[method]}
    with pytest.warns(FutureWarning, match="is now called"):
        config: Config = METHODS[method].Config(**with_new_names(old))
    assert all(getattr(config, name) == 8 for name in MOVED[method])


@pytest.mark.filterwarnings("error")
def test_present_names_warn_of_nothing() -> None:
    options = {"gp_min": 0.5, "lr": 0.001, "init": "kaiming"}
    assert with_new_names(options) == {"gp_min": 0.5, "lr": 0.001, "init_type": "kaiming"}


def test_the_old_argument_of_open_dataset_is_read_with_a_warning() -> None:
    with pytest.warns(FutureWarning, match="least_object is now called min_object"):
        dataset = open_dataset(size=32, object_size=8, least_object=5, limit=1)
    assert dataset.needs.min_object == 5
