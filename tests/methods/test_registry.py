"""Old names of options are read for one more version."""

import pytest

from cgcl_fast._renamed import RENAMED
from cgcl_fast.data import open_dataset
from cgcl_fast.data.needs import Crops, DataNeeds
from cgcl_fast.methods import METHODS
from cgcl_fast.methods.options import Config
from cgcl_fast.methods.registry import with_new_names

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


@pytest.mark.parametrize(
    ("kind", "others", "names"),
    [(METHODS[method].Config, {}, names) for method, names in MOVED.items()]
    + [(Crops, {"count": 1, "size": 8}, MOVED["sincut"]), (DataNeeds, {}, ("min_object",))],
)
def test_old_names_are_taken_in_python_with_a_warning(kind: type, others: dict, names: tuple[str, ...]) -> None:
    for old, new in ((old, new) for old, new in RENAMED.items() if new in names):
        with pytest.warns(FutureWarning, match=f"{old} is now called {new}") as warned:
            config = kind(**others, **{old: 8})
        assert getattr(config, new) == 8 and warned[0].filename == __file__
        with pytest.raises(ValueError, match=f"{old} is the old name of {new}, and both are given"):
            kind(**others, **{old: 8, new: 9})


@pytest.mark.filterwarnings("error")
def test_present_names_warn_of_nothing() -> None:
    options = {"gp_min": 0.5, "lr": 0.001, "init": "kaiming"}
    assert with_new_names(options) == {"gp_min": 0.5, "lr": 0.001, "init_type": "kaiming"}


def test_the_old_argument_of_open_dataset_is_read_with_a_warning() -> None:
    with pytest.warns(FutureWarning, match="least_object is now called min_object"):
        dataset = open_dataset(size=32, object_size=8, least_object=5, limit=1)
    assert dataset.needs.min_object == 5
