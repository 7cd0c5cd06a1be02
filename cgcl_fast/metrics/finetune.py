"""``python -m cgcl_fast.metrics.finetune --data DIR --output FILE.safetensors``: fine-tune an Inception-v3 to classify
the domains of a data set, for the inception scores of CGL, CGCL and MGUIT.

Exit status: 0 if it was trained and saved, 1 if it had to stop, 2 for wrong options or data.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models import Inception_V3_Weights
from tqdm import tqdm

from cgcl_fast._command import Parser, UsageError, as_usage_error, run, underscored
from cgcl_fast.compat.reading import read_weights
from cgcl_fast.data import UnpairedDataset, find_domains, open_dataset
from cgcl_fast.data.formats import printable
from cgcl_fast.data.needs import DataNeeds
from cgcl_fast.data.random import item_random
from cgcl_fast.engine import make_accelerator, seed_all
from cgcl_fast.engine.files import write_atomically
from cgcl_fast.methods.options import Count, Positive, Within, check
from cgcl_fast.metrics.classifier import LEAST_SIZE, DomainClassifier, classifier_bytes


@dataclass
class FinetuneOptions:
    """Fine-tuning.

    Attributes:
        output: File for the classifier, .safetensors.
        data: As for train: a folder of domains. Without it: the built-in streets.
        domains: Names of the domains; by default those of the data.
        weights: imagenet downloads torchvision's weights; a file provides them (.pth or .safetensors of inception_v3);
            none starts from random ones, which takes many more steps.
        steps: Optimiser steps.
        batch_size: Images per step, each from a random domain.
        size: Side of the network's input in pixels; 299 as in the papers.
        lr: Learning rate of Adam, with cosine decay to zero.
        limit: Use at most this many images of each domain.
        test_images: Test images per domain for measuring the accuracy.
        seed: Of weights, draws and flips.
        device: auto, cpu or cuda.
    """

    output: Path
    data: Path | None = None
    domains: tuple[str, ...] = ()
    weights: str = "imagenet"
    steps: Count = 1000
    batch_size: Annotated[int, Within(2, 4096)] = 32
    size: Annotated[int, Within(LEAST_SIZE, 4096)] = 299
    lr: Positive = 1e-4
    limit: Count | None = None
    test_images: Count = 100
    seed: Annotated[int, Within(0, 2**32 - 1)] = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        check(self)
        if self.output.suffix != ".safetensors":
            raise ValueError(f"output: expected a file that ends with .safetensors, got {self.output}")


def initial_weights(source: str) -> dict[str, Tensor] | None:
    """Weights of torchvision's ``inception_v3`` from the source given by ``--weights``; None for random ones.

    Raises:
        ValueError, OSError: the weights cannot be read.
    """
    if source == "none":
        return None
    if source != "imagenet":
        return read_weights(Path(source))[0]
    try:
        return Inception_V3_Weights.IMAGENET1K_V1.get_state_dict(check_hash=True)  # type: ignore[return-value]
    except OSError as error:
        url = Inception_V3_Weights.IMAGENET1K_V1.url
        raise ValueError(f"weights: {url} cannot be downloaded ({error}); give its file by --weights FILE") from error


def image_of(dataset: UnpairedDataset, domain: str, index: int, *where: int | str) -> Tensor:
    """An image of a domain as ``dataset`` prepares it, flipped or not depending on ``where`` in the training it is
    used."""
    picture = dataset.picture(domain, index)
    return dataset.preprocess(picture.image, item_random(dataset.seed, *where) if where else None)


def batches(dataset: UnpairedDataset, steps: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (B, 3, size, size) and the indices of their domains (B,): all domains equally often, independent of their
    numbers of images."""
    for step in range(steps):
        rng = item_random(dataset.seed, "finetune", step)
        labels = [int(rng.random() * len(dataset.domains)) for _ in range(batch_size)]
        images = [
            image_of(dataset, name, int(rng.random() * dataset.count(name)), "finetune", step, row)
            for row, name in enumerate(dataset.domains[label] for label in labels)
        ]
        yield torch.stack(images), torch.tensor(labels)


def finetune(classifier: DomainClassifier, dataset: UnpairedDataset, steps: int, batch_size: int, lr: float) -> float:
    """Train all weights of a classifier on the domains of ``dataset``, with cross-entropy and Adam.

    Returns:
        Mean loss of the last tenth of the steps.
    """
    device = next(classifier.parameters()).device
    optimizer = torch.optim.Adam(classifier.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    classifier.train()
    losses = []
    bar = tqdm(total=steps, unit="step", mininterval=0.2 if sys.stderr.isatty() else 10, dynamic_ncols=True)
    with bar:
        for images, labels in batches(dataset, steps, batch_size):
            loss = F.cross_entropy(classifier(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            bar.set_postfix({"loss": f"{losses[-1]:.3f}"}, refresh=False)
            bar.update()
    classifier.eval()
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last)


@torch.no_grad()
def accuracy(classifier: DomainClassifier, dataset: UnpairedDataset, images: int, batch_size: int) -> dict[str, float]:
    """The share of each domain's first ``images`` images that are classified correctly, by domain."""
    device = next(classifier.parameters()).device
    shares = {}
    for label, domain in enumerate(dataset.domains):
        count = min(images, dataset.count(domain))
        right = 0
        for start in range(0, count, batch_size):
            rows = [image_of(dataset, domain, n) for n in range(start, min(start + batch_size, count))]
            right += int((classifier(torch.stack(rows).to(device)).argmax(1) == label).sum())
        shares[domain] = right / count
    return shares


def command(arguments: Sequence[str]) -> int:
    """The command; see the module."""
    parser = Parser(prog="python -m cgcl_fast.metrics.finetune", description=__doc__)
    parser.add_class_arguments(FinetuneOptions, None)
    parsed = parser.parse_args(underscored(arguments)).as_dict()
    with as_usage_error():
        options = FinetuneOptions(**parsed)
        device = make_accelerator(device=options.device).device
        domains = options.domains or find_domains(options.data)

        def opened(train: bool) -> UnpairedDataset:
            return open_dataset(
                options.data,
                domains=domains,
                train=train,
                size=options.size,
                preprocess="resize",
                limit=options.limit,
                seed=options.seed,
                needs=DataNeeds(multiple=1),
            )

        dataset = opened(train=True)
        weights = initial_weights(options.weights)
        seed_all(options.seed)
        classifier = DomainClassifier(dataset.domains, options.size)
        if weights is not None:
            classifier.take_imagenet(weights)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        if options.output.exists():
            raise UsageError(f"--output: {printable(options.output)} exists already")
    print(*dataset.summary(), sep="\n")
    loss = finetune(classifier.to(device), dataset, options.steps, options.batch_size, options.lr)
    try:
        tested, held_out = opened(train=False), True
    except ValueError:  # no test images
        tested, held_out = dataset, False
    told = accuracy(classifier, tested, options.test_images, options.batch_size)
    notes = {
        "weights": options.weights if options.weights in ("imagenet", "none") else os.path.basename(options.weights),
        "steps": options.steps,
        "batch_size": options.batch_size,
        "lr": options.lr,
        "seed": options.seed,
        "loss": loss,
        "accuracy": told,
        "accuracy_on": "test" if held_out else "train",
    }
    write_atomically(options.output, lambda file: file.write(classifier_bytes(classifier.cpu(), notes)))
    on = "test images" if held_out else "training images, there are no test images"
    print(f"told right ({on}): " + ", ".join(f"{name} {share:.0%}" for name, share in told.items()))
    print(f"classifier: {printable(options.output)}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    return run(command, arguments)


if __name__ == "__main__":
    sys.exit(main())
