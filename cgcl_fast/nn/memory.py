"""The class-aware memory of MGUIT (Jeong et al. 2021, Sec. 3.2): keys of content, values of style, written by use."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from cgcl_fast.ops import memory_contrast, memory_read, memory_update
from cgcl_fast.ops._memory import LEAST_TEMPERATURE

UPDATES = ("paper", "published")
LOSSES = ("contrastive", "triplet", "published")


class ClassMemory(nn.Module):
    """Items of a key, shared by the domains, and a value for each domain. Each class has items of its own.

    Keys and values are buffers, a part of the state dict: no gradient moves them, only :meth:`update`. They begin as
    random unit vectors.

    ``update`` chooses how pixels write into the items of their class:

    - "paper": Eq. 5-6. Each item takes from all pixels, by a softmax over them: key ← unit(key + Σ β c over both
      domains), value ← unit(value + Σ β s of its domain). The cosine in that softmax has no temperature, so all pixels
      weigh nearly the same, and the items of a class become identical within a few hundred updates; a lower
      ``temperature`` keeps them apart.
    - "published": as the authors' code. Only the pixels whose nearest item it is count, with the same β:
      key ← unit(½ key + ¼ unit(Σ β c) of each domain), value ← ½ value + ½ norm(unit(Σ β s)), where norm gives mean 0
      and variance 1 over the channels; and a class that is missing in one domain is not written at all. An item that is
      no pixel's nearest keeps its value, which the authors' code halves.

    Args:
        items: number of items of each class; the index is the class.
        key_dim: C, channels of the content.
        value_dim: channels of the style.
        domains: number of domains.
        class_aware: pixels read and write the items of their class only, where classes are given. False: one memory
            for all (Table 4, "sm").
        update: "paper" or "published".
        temperature: τ of the softmax over cosines in reading and in updating, at least 0.02; 1 in the paper, at which
            nearly all items of a pixel's class count, see :func:`cgcl_fast.ops.memory_read`.

    Raises:
        ValueError: a class without items, another ``update``, or a ``temperature`` out of range.

    In TorchScript :meth:`loss` is of kind "contrastive" and :meth:`update` of rule "paper", in one process.

    Example:
        >>> import torch
        >>> from cgcl_fast.nn import ClassMemory
        >>> memory = ClassMemory(items=[4, 2], key_dim=16, value_dim=8)  # four items of class 0, two of class 1
        >>> content, style = torch.randn(2, 1, 16, 6, 6), torch.randn(2, 1, 8, 6, 6)  # a batch of each domain
        >>> classes = torch.zeros(2, 1, 6, 6, dtype=torch.int64)
        >>> memory(content[0], memory.values[1], classes[0]).shape  # A's content in the style of B
        torch.Size([1, 8, 6, 6])
        >>> before = memory.keys.clone()
        >>> memory.update(list(content), list(style), list(classes))
        >>> (memory.keys != before).any(dim=1)  # no pixel is of class 1
        tensor([ True,  True,  True,  True, False, False])
    """

    def __init__(
        self,
        items: Sequence[int],
        key_dim: int,
        value_dim: int,
        domains: int = 2,
        *,
        class_aware: bool = True,
        update: str = "paper",
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if not items or min(items) < 1:
            raise ValueError(f"items: expected at least one item of each class, got {tuple(items)}")
        if update not in UPDATES:
            raise ValueError(f"update: expected one of {', '.join(UPDATES)}, got {update!r}")
        self.items = tuple(items)
        self.class_aware = class_aware
        if not LEAST_TEMPERATURE <= temperature < math.inf:
            raise ValueError(f"temperature: expected at least {LEAST_TEMPERATURE} and finite, got {temperature}")
        self.rule = update
        self.temperature = float(temperature)
        self.keys: Tensor  # said here: TorchScript would take what the class says of them for text
        self.values: Tensor
        self.item_class: Tensor
        self.register_buffer("keys", F.normalize(torch.randn(sum(items), key_dim), dim=1))
        self.register_buffer("values", F.normalize(torch.randn(domains, sum(items), value_dim), dim=2))
        # What a file of weights is read into is built on the meta device, and the file has none of this.
        device = "cpu" if self.keys.is_meta else self.keys.device
        owners = [k for k, count in enumerate(items) for _ in range(count)]
        self.register_buffer("item_class", torch.tensor(owners, device=device), persistent=False)

    def _classes(self, pixel_class: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The classes of pixels and items, or neither."""
        if pixel_class is None or not self.class_aware:
            return None, None
        return pixel_class, self.item_class

    def forward(self, content: Tensor, values: Tensor, pixel_class: Tensor | None = None) -> Tensor:
        """:meth:`read`."""
        return self.read(content, values, pixel_class)

    @torch.jit.export
    def read(self, content: Tensor, values: Tensor, pixel_class: Tensor | None = None) -> Tensor:
        """Eq. 2-4: (B, C, h, w) of content and (N, V) values to (B, V, h, w). Without classes a pixel reads all items,
        as at test time."""
        pixel_class, item_class = self._classes(pixel_class)
        return memory_read(
            content,
            self.keys,
            values,
            pixel_class=pixel_class,
            item_class=item_class,
            temperature=self.temperature,
        )

    @torch.jit.export
    def loss(
        self,
        features: Tensor,
        items: Tensor,
        pixel_class: Tensor | None = None,
        kind: str = "contrastive",
        temperature: float = 0.07,
        margin: float = 1.0,
    ) -> Tensor:
        """Pull each pixel's feature to its nearest item, away from the others of its class: the mean over the pixels of
        Eq. 8, or of the triplet loss that it is compared with (Table 4, "tl"). Scalar.

        Args:
            features: (B, C, h, w); the gradient goes to them.
            items: (N, C): the keys, or the values of a domain.
            pixel_class: (B, h, w).
            kind: "contrastive", "triplet" or "published", that of the authors' code; see :func:`memory_published`.
            temperature: τ of Eq. 8.
            margin: that of the triplet loss.
        """
        pixel_class, item_class = self._classes(pixel_class)
        if torch.jit.is_scripting():
            if kind != "contrastive":
                raise ValueError(f"kind: TorchScript has 'contrastive' only, got '{kind}'")
        elif kind == "triplet":
            return memory_triplet(features, items, margin=margin, pixel_class=pixel_class, item_class=item_class)
        elif kind == "published":
            return memory_published(features, items, pixel_class=pixel_class, item_class=item_class)
        return memory_contrast(features, items, temperature=temperature, pixel_class=pixel_class, item_class=item_class)

    @torch.jit.export
    def update(self, contents: list[Tensor], styles: list[Tensor], pixel_classes: list[Tensor] | None = None) -> None:
        """Let a batch of each domain write; after the backward pass only. Several processes write each with its own
        batch, and all go on with the average.

        Args:
            contents: a map (B, C, h, w) for each domain.
            styles: a map (B, V, h, w) for each domain.
            pixel_classes: (B, h, w) for each domain.
        """
        item_class: Tensor | None = self.item_class
        if pixel_classes is None or not self.class_aware:
            pixel_classes, item_class = None, None
        if torch.jit.is_scripting():
            if self.rule != "paper":
                raise ValueError(f"update: TorchScript has the rule 'paper' only, got '{self.rule}'")
            keys, values = memory_update(
                self.keys,
                self.values,
                contents,
                styles,
                pixel_classes=pixel_classes,
                item_class=item_class,
                temperature=self.temperature,
            )
        else:
            keys, values = self._updated(contents, styles, pixel_classes, item_class)
        self.keys.copy_(keys)
        self.values.copy_(values)

    @torch.no_grad()
    def _updated(
        self,
        contents: list[Tensor],
        styles: list[Tensor],
        classes: list[Tensor] | None,
        item_class: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Keys and values after an update."""
        if self.rule == "paper":
            keys, values = memory_update(
                self.keys,
                self.values,
                contents,
                styles,
                pixel_classes=classes,
                item_class=item_class,
                temperature=self.temperature,
            )
        else:
            keys, values = published_update(
                self.keys, self.values, contents, styles, classes, item_class, self.temperature
            )
        if distributed.is_available() and distributed.is_initialized():
            for items in (keys, values):
                distributed.all_reduce(items)
                items /= distributed.get_world_size()
            keys = F.normalize(keys, dim=1)
            values = F.normalize(values, dim=2) if self.rule == "paper" else values
        return keys, values

    def random_values(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """Values in place of the stored ones, for other styles (Fig. 6): (batch, N, V), on the device of the memory.

        Standard normal; of unit length where the update keeps the stored ones so.
        """
        device = self.values.device if generator is None else generator.device
        values = torch.randn(batch, *self.values.shape[1:], generator=generator, device=device).to(self.values)
        return F.normalize(values, dim=2) if self.rule == "paper" else values


def memory_triplet(
    features: Tensor,
    items: Tensor,
    *,
    margin: float = 1.0,
    pixel_class: Tensor | None = None,
    item_class: Tensor | None = None,
) -> Tensor:
    """max(‖f - m₊‖₂ - ‖f - m₋‖₂ + margin, 0) of each pixel's feature f, with its nearest item m₊ and second nearest m₋:
    the feature separateness loss of Park et al., "Learning Memory-guided Normality for Anomaly Detection", CVPR 2020.

    Args:
        features: (B, C, h, w).
        items: (N, C).
        margin: 1 in their code.
        pixel_class: (B, h, w): only items of the pixel's class count.
        item_class: (N,).

    Returns:
        The mean over the pixels that have two items; 0 where none has. Gradients to ``features`` and ``items``.
    """
    rows = features.to(items.dtype).flatten(2).transpose(1, 2).flatten(0, 1)
    if len(items) < 2 or not len(rows):
        return (rows * 0).sum()
    with torch.no_grad():
        distances = torch.cdist(rows, items)
        if pixel_class is not None and item_class is not None:
            distances = distances.masked_fill(pixel_class.reshape(-1, 1) != item_class, torch.inf)
        nearest = distances.topk(2, dim=1, largest=False)
        counts = nearest.values[:, 1].isfinite()
    to_first, to_second = (torch.linalg.vector_norm(rows - items[i], dim=1) for i in nearest.indices.unbind(1))
    losses = torch.where(counts, (to_first - to_second + margin).relu(), 0)
    return losses.sum() / counts.sum().clamp(min=1)


def memory_published(
    features: Tensor, items: Tensor, *, pixel_class: Tensor | None = None, item_class: Tensor | None = None
) -> Tensor:
    """0.1 · exp(-mean_p π_{p,p₊}) of the authors' code, with π_{p,n} the softmax, over all pixels p of a class, of
    their dot products with item n, and p₊ the item of the class nearest to p; the sum over the classes.

    The exponent has the probability itself, where a negative log-likelihood has its logarithm, so the loss ends at
    0.1 · exp(-1) for each class.

    Args:
        features: (B, C, h, w).
        items: (N, C).
        pixel_class: (B, h, w): pixels and items of the same class belong together; without, all do.
        item_class: (N,).

    Returns:
        Scalar; a class that no pixel has adds 0. Gradients to ``features`` and ``items``.
    """
    rows = features.to(items.dtype).flatten(2).transpose(1, 2).flatten(0, 1)
    logits = rows @ items.T
    same = torch.ones_like(logits, dtype=torch.bool)
    first = torch.zeros(len(items), dtype=torch.int64, device=items.device)  # one class: its number is its first item's
    if pixel_class is not None and item_class is not None:
        same = pixel_class.reshape(-1, 1) == item_class
        first = (item_class[:, None] == item_class).int().argmax(dim=1)
    if not len(rows):
        return logits.sum()
    low = torch.finfo(logits.dtype).min
    share = logits.masked_fill(~same, low).softmax(dim=0)
    nearest = logits.detach().masked_fill(~same, -torch.inf).argmax(dim=1, keepdim=True)
    counts = same.any(dim=1).to(share)
    # Sums by class at the place of the class's first item; no shape depends on which classes there are.
    place = first[nearest[:, 0]]
    zeros = share.new_zeros(len(items))
    number = zeros.index_add(0, place, counts)
    chosen = zeros.index_add(0, place, share.gather(1, nearest)[:, 0] * counts)
    losses = 0.1 * torch.exp(-chosen / number.clamp(min=1))
    return torch.where(number > 0, losses, 0).sum()


def published_update(
    keys: Tensor,
    values: Tensor,
    contents: Sequence[Tensor],
    styles: Sequence[Tensor],
    pixel_classes: Sequence[Tensor] | None = None,
    item_class: Tensor | None = None,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The update of the authors' code, see :class:`ClassMemory`: new keys (N, C) and values (D, N, V)."""
    directions = F.normalize(keys, dim=1)
    present = torch.ones(len(keys), dtype=torch.bool, device=keys.device)
    new_keys, new_values, written = keys * 0.5, [], []
    for d, (content, style) in enumerate(zip(contents, styles, strict=True)):
        c, s = (x.to(keys.dtype).flatten(2).transpose(1, 2).flatten(0, 1) for x in (content, style))  # (P, C), (P, V)
        cosine = F.normalize(c, dim=1) @ directions.T
        same = torch.ones_like(cosine, dtype=torch.bool)
        if pixel_classes is not None and item_class is not None:
            same = pixel_classes[d].reshape(-1, 1) == item_class
        weight = (cosine / temperature).exp() * same
        weight = weight / weight.sum(dim=0).clamp(min=torch.finfo(weight.dtype).tiny)
        first = cosine.masked_fill(~same, -torch.inf).argmax(dim=1, keepdim=True)
        nearest = (first == torch.arange(len(keys), device=keys.device)) & same
        weight = weight * nearest
        new_keys = new_keys + F.normalize(weight.T @ c, dim=1) * (0.5 / len(contents))
        new_values.append((values[d] + F.layer_norm(F.normalize(weight.T @ s, dim=1), s.shape[1:])) * 0.5)
        written.append(nearest.any(dim=0))
        present = present & same.any(dim=0)
    new_keys = torch.where(present[:, None], F.normalize(new_keys, dim=1), keys)
    rows = torch.stack(written) & present
    return new_keys, torch.where(rows[..., None], torch.stack(new_values), values)


def class_map(
    boxes: Sequence[Tensor], classes: Sequence[Tensor], size: tuple[int, int], background: int, stride: int = 4
) -> Tensor:
    """The class of each pixel of a feature map, from boxes; of several boxes the smaller one wins.

    A pixel of the map is in a box if its centre is; a box that has no centre takes the pixel that its own centre is in.

    Args:
        boxes: for each image (N, 4), x1 y1 x2 y2 in pixels of the image.
        classes: for each image (N,) int64.
        size: height and width of the images.
        background: the class of pixels in no box.
        stride: pixels of the image for one of the map.

    Returns:
        (B, height // stride, width // stride), int64, on the CPU.

    Example:
        >>> import torch
        >>> from cgcl_fast.nn import class_map
        >>> boxes, classes = torch.tensor([[0.0, 0.0, 8.0, 8.0]]), torch.tensor([1])
        >>> class_map([boxes], [classes], size=(16, 16), background=0)
        tensor([[[1, 1, 0, 0],
                 [1, 1, 0, 0],
                 [0, 0, 0, 0],
                 [0, 0, 0, 0]]])
    """
    height, width = size[0] // stride, size[1] // stride
    result = torch.full((len(boxes), height, width), background, device="cpu")
    for image, (found, labels) in enumerate(zip(boxes, classes, strict=True)):
        found = found.cpu().float()
        areas = (found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1])
        for index in areas.argsort(descending=True, stable=True).tolist():
            left, top, right, bottom = (value / stride for value in found[index].tolist())
            columns, rows = _span(left, right, width), _span(top, bottom, height)
            result[image, rows, columns] = labels[index].cpu()
    return result


def _span(low: float, high: float, length: int) -> slice:
    """The pixels i of ``length`` with low <= i + ½ < high, at least one."""
    first, last = math.ceil(low - 0.5), math.ceil(high - 0.5)
    if first >= last:
        first = int((low + high) / 2)
        last = first + 1
    return slice(min(max(first, 0), length - 1), min(max(last, 1), length))
