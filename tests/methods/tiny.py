"""Options that make a run of any method a matter of seconds."""

from __future__ import annotations

TINY = ["--size", "32", "--ngf", "4", "--ndf", "4", "--n-blocks", "5", "--device", "cpu", "--log-every", "1"]

DOMAINS = ["--n-blocks", "1", "--object-size", "16", "--d-layers", "3", "--style-dim", "3", "--mlp-dim", "8"]
MGUIT = ["--style-nc", "6", "--d-layers", "3", "--n-scales", "2", "--content-layers", "1", "--init-gain", "0.1"]
CROPS = ["--ngf", "1", "--ndf", "1", "--num-crops", "2", "--crop-size", "16", "--most-width", "48"]
TINY_OF = {"cgl": DOMAINS, "cgcl": [*DOMAINS, "--nce-dim", "8"], "mguit": MGUIT, "sincut": CROPS}
"""Where the method's own sizes are others."""
