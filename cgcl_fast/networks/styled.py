"""The interface of generators with domains and styles, so that commands need not know which one it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn


class StyledGenerator(nn.Module, ABC):
    """Translates images to a domain in a style.

    :class:`cgcl_fast.metrics.StyleEvaluation` uses only this of a method: ``domains``, the two sources of styles and
    the translation. It needs styles of references, with the shape of random ones.

    Attributes:
        domains: names of the domains; ``domain`` below is an index into them.
        config: the constructor's arguments, as JSON-compatible values.
        reads_references: whether :meth:`style_of` returns styles.
    """

    reads_references: ClassVar[bool] = True
    if TYPE_CHECKING:  # TorchScript would take what a class says of its attributes for text
        domains: tuple[str, ...]
        config: dict[str, Any]

    @abstractmethod
    def random_style(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """Styles for ``batch`` images, (batch, ...), drawn on the device of ``generator`` (None: the CPU's default one)
        and returned on the device of the networks."""

    @abstractmethod
    def style_of(self, image: Tensor, domain: int) -> Tensor:
        """The style of each reference image (B, C, H, W) of a domain.

        Raises:
            ValueError: this generator does not take styles from images; one line.
        """

    @abstractmethod
    def forward(self, image: Tensor, domain: int, style: Tensor | None = None) -> Tensor:
        """Translate (B, C, H, W) in [-1, 1] to ``domain``. A style of one row applies to all images; None is the
        generator's default style.

        Raises:
            ValueError: there is no such domain, or the image or style has another shape.
        """

    def domain_index(self, name: str | None) -> int:
        """The index of a domain by name; None means the second of two.

        Raises:
            ValueError: no such domain, or None with more than two domains.
        """
        if name is None and len(self.domains) == 2:
            return 1
        if name not in self.domains:
            got = "none" if name is None else repr(name)
            raise ValueError(f"domain: expected one of {', '.join(self.domains)}, got {got}")
        return self.domains.index(name)

    def check_domain(self, domain: int) -> None:
        """Raise a ValueError if ``domain`` is not an index into ``domains``."""
        if not 0 <= domain < len(self.domains):
            raise ValueError(f"domain: expected 0 to {len(self.domains) - 1}, got {domain}")
