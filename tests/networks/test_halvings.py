"""A number of layers too large for any image is rejected before 2 to the power of it is computed."""

from __future__ import annotations

import pytest
from hostile import no_waiting

from cgcl_fast.methods.cgl import CGL, CGLConfig
from cgcl_fast.networks import DomainDiscriminator, PatchDiscriminator
from cgcl_fast.networks.mguit import ContentDiscriminator, MultiScaleDiscriminator


@pytest.mark.parametrize(
    "build", [PatchDiscriminator, DomainDiscriminator, MultiScaleDiscriminator, ContentDiscriminator]
)
@pytest.mark.parametrize("layers", [17, 10**18])
def test_absurd_numbers_of_layers_are_refused(build: type, layers: int) -> None:
    with no_waiting(), pytest.raises(ValueError, match=f"n_layers: expected at most 16, got {layers}"):
        build(n_layers=layers)
    with no_waiting(), pytest.raises(ValueError, match=f"d_layers: expected an integer from 1 to 16, got {layers}"):
        CGL(CGLConfig(d_layers=layers))
