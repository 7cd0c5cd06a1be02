"""Inception score and conditional inception score, from the probabilities of a classifier of the domains.

IS (Salimans et al., "Improved Techniques for Training GANs", 2016) is high if each image clearly belongs to one class
and all classes occur. CIS (Huang et al., "Multimodal Unsupervised Image-to-Image Translation", ECCV 2018, Eq. 11) asks
the same of the translations of a single input: it is 1 if all styles of an input look alike.

    IS  = exp E_y KL(p(z|y) ‖ p(z))        CIS = exp E_x E_y|x KL(p(z|y) ‖ p(z|x))

with z the class, y a translation, and p(z), p(z|x) the means of p(z|y) over all translations and over those of the
input x. CGL, CGCL and MGUIT use 100 inputs with 100 translations each, and an Inception fine-tuned on the domains
(:mod:`cgcl_fast.metrics.finetune`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class InceptionScores:
    """IS and CIS, accumulated input by input in constant memory.

    The mean divergence from the mean equals the entropy of the mean minus the mean entropy, so sums are enough.

    Attributes:
        sums: float64 (K + 4,), which several processes can add up (``torch.distributed.all_reduce``): the sum of each
            class's probabilities, the sum of their entropies, the number of translations, the sum over inputs of the
            divergence within one, the number of inputs.

    Args:
        classes: K.
    """

    def __init__(self, classes: int) -> None:
        if classes < 2:
            raise ValueError(f"classes: expected at least 2, got {classes}")
        self.classes = classes
        self.sums = torch.zeros(classes + 4, dtype=torch.float64)

    def update(self, probabilities: Tensor) -> None:
        """Add the translations of one input.

        Args:
            probabilities: (S, K), p(z|y) of each of its S translations.

        Raises:
            ValueError: another shape, or rows that are not probabilities.
        """
        p = check_probabilities(probabilities)
        if p.dim() != 2 or p.shape[1] != self.classes or len(p) == 0:
            raise ValueError(f"probabilities: expected (S, {self.classes}), got {tuple(probabilities.shape)}")
        within = entropy(p.mean(0)) - entropy(p).mean()
        rest = torch.stack([entropy(p).sum(), p.new_tensor(len(p)), within, p.new_tensor(1)])
        self.sums += torch.cat([p.sum(0), rest])

    def figures(self) -> dict[str, float]:
        """ "IS" and "CIS".

        Raises:
            ValueError: there were no translations.
        """
        entropies, translations, within, inputs = self.sums[self.classes :].tolist()
        if not translations:
            raise ValueError("probabilities: expected those of some translations, got none")
        between = float(entropy(self.sums[: self.classes] / translations)) - entropies / translations
        return {"IS": math.exp(between), "CIS": math.exp(within / inputs)}


def inception_score(probabilities: Tensor) -> float:
    """IS of images with class probabilities (N, K), all in one split; from 1 to K.

    Raises:
        ValueError: another shape, or rows that are not probabilities.
    """
    scores = InceptionScores(probabilities.shape[-1])
    scores.update(probabilities)
    return scores.figures()["IS"]


def conditional_inception_score(probabilities: Tensor) -> float:
    """CIS of S translations of each of N inputs, with class probabilities (N, S, K); from 1 to K.

    Raises:
        ValueError: another shape, or rows that are not probabilities.
    """
    if probabilities.dim() != 3:
        raise ValueError(f"probabilities: expected (N, S, K), got {tuple(probabilities.shape)}")
    scores = InceptionScores(probabilities.shape[-1])
    for of_input in probabilities:
        scores.update(of_input)
    return scores.figures()["CIS"]


def entropy(p: Tensor) -> Tensor:
    """-Σ p log p over the last dimension, 0 log 0 = 0."""
    return torch.special.entr(p).sum(-1)


def check_probabilities(probabilities: Tensor) -> Tensor:
    """The probabilities as float64 on the CPU.

    Raises:
        ValueError: a row has a negative number, or does not sum to 1.
    """
    p = probabilities.detach().to("cpu", torch.float64)
    least, total = (p.min(), p.sum(-1)) if p.numel() else (p.new_tensor(0), p.new_tensor(1))
    if not (least >= 0 and (total - 1).abs().max() < 1e-3):
        raise ValueError("probabilities: expected numbers from 0 on that add up to 1 in each row, as of a softmax")
    return p
