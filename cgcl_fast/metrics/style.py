"""The effect of references: whether translations in a reference's style are closer to the truth in its look than those
in another's, how much they differ, and whether the style can be read back from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from cgcl_fast.data import UnpairedDataset
from cgcl_fast.methods.base import translate_any_size
from cgcl_fast.metrics.colour_transfer import colour_statistics, colour_transfer
from cgcl_fast.metrics.distances import delta_e_of_all
from cgcl_fast.metrics.evaluation import CHUNK, aligned
from cgcl_fast.networks import StyledGenerator

REFERENCES = 4
"""References per domain in a run's evaluation: they form six pairs, and cost as many translations as there are
scenes."""

SCENES_A_REFERENCE = 4
"""A run translates a scene once for its distances, but once per reference here, so it uses fewer scenes by this
factor."""

Batch = Mapping[str, Any]


class StyleEvaluation:
    """Call with a method to get the metrics of its styles, for each target domain ("style/NAME/DOMAIN") and their mean
    over the domains ("style/NAME"); none for a method without styles of references.

    T(s, r) is scene s in the style of reference r of the target domain; truth(s, r) is what it should look like:

    ======================  =========================================================================================
    right                   distance of T(s, r) to truth(s, r), mean over scenes and references
    wrong                   distance of T(s, r') to truth(s, r), mean over scenes and ordered pairs r != r'
    share                   share of (s, r, r'), r != r', in which T(s, r) is nearer to truth(s, r) than T(s, r') is.
                            A tie is not. References without a meaning: one half, or 0 where nothing changes at all
    both                    share of (s, {r, r'}) in which that is so of both; without a meaning at most one half
    change_share            as share, of translations whose mean over the references is that of the truth: of what a
                            reference changes, without what the translations of all of them are off by
    transfer_right          as right, of the scene given the reference's colours by Reinhard et al.'s colour transfer
    transfer_wrong          as wrong, of that
    transfer_share          as share, of that
    spread                  standard deviation over the references of a value of a pixel, mean over pixels and scenes
    random_spread           the same over as many random styles
    true_spread             the same of the truth
    code_error              mean \\|E_s(T(s, r)) - s_r\\|, of the code s_r of a reference read from the translation
    code_constant           mean \\|s_r - m\\| with m, for each dimension, the median of the codes of the references: no
                            constant is closer, so a code is read only where the error is smaller
    random_code_error       as code_error, of random styles
    random_code_constant    as code_constant, of the same random styles
    code_spread             standard deviation over the references of a dimension of the code, mean over dimensions
    ======================  =========================================================================================

    The distance is ΔE*ab (:func:`cgcl_fast.metrics.delta_e`), because a look consists of light and colour, and the mean
    difference of RGB values hardly depends on which of them changes: 0.04 (of 1) is ΔE 4 to 5 if a grey gets lighter,
    and 10 to 27 if it gets a tint, which is what distinguishes two looks of equal brightness. Distance and spread are
    means over pixels, not over their squares, so that few pixels, such as a shifted edge, do not outweigh a look that
    is everywhere. Standard deviations are of R values (divided by R), so they are only comparable for equal numbers of
    references and styles. Spreads count pixel values from 0 to 1.

    All scenes are translated to all domains, including their own, where they take the look of another of its images.

    Args:
        batch: from :meth:`UnpairedDataset.style_batch`.

    Raises:
        ValueError: fewer than two references, or no truth of any domain.

    Random styles are the same in each call; torch's generators are left unchanged.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.domains = tuple(name.removeprefix("truth_") for name in batch if name.startswith("truth_"))
        if not self.domains:
            raise ValueError("batch: expected a truth_NAME for each domain, got none")
        self.scenes, self.references = batch[f"truth_{self.domains[0]}"].shape[:2]
        if self.references < 2:
            raise ValueError(f"batch: expected at least 2 references, got {self.references}")
        self._transfer = {name: self._of_colour_transfer(name) for name in self.domains}

    @torch.no_grad()
    def __call__(self, method: Any) -> dict[str, float]:
        """The metrics of ``method`` in its current state, whose generator must be a ``StyledGenerator``."""
        generator = getattr(method, method.generator_name)
        if not isinstance(generator, StyledGenerator) or not generator.reads_references:
            return {}
        return self.of_generator(generator)

    @torch.no_grad()
    def of_generator(self, generator: StyledGenerator) -> dict[str, float]:
        """The same for a generator that reads references."""
        random = torch.Generator().manual_seed(0)
        by_domain = {name: self._of_domain(generator, name, random) for name in self.domains}
        figures: dict[str, float] = {}
        for name in by_domain[self.domains[0]]:
            figures[f"style/{name}"] = sum(values[name] for values in by_domain.values()) / len(by_domain)
            figures |= {f"style/{name}/{domain}": values[name] for domain, values in by_domain.items()}
        return figures

    @torch.no_grad()
    def codes(self, generator: StyledGenerator, domain: str) -> Tensor:
        """The styles of a domain's references, (R, ...), on the CPU."""
        return _read(generator, self.batch[f"reference_{domain}"], generator.domain_index(domain))

    @torch.no_grad()
    def _of_colour_transfer(self, domain: str) -> dict[str, float]:
        """The metrics that are the same for every method."""
        names = ("A", f"reference_{domain}", f"truth_{domain}")
        scenes, references, truths = (self.batch[name].float().cpu() for name in names)
        colours = [colour_statistics([reference[None]]) for reference in references]
        distances = []
        for image, truth in zip(scenes, truths, strict=True):
            recoloured = torch.cat([colour_transfer(image[None], of_reference) for of_reference in colours])
            distances.append(delta_e_of_all(recoloured, truth))
        right, wrong, share, _ = _told_apart(torch.stack(distances))
        return {"transfer_right": right, "transfer_wrong": wrong, "transfer_share": share}

    def _of_domain(self, generator: StyledGenerator, domain: str, random: torch.Generator) -> dict[str, float]:
        index, count = generator.domain_index(domain), self.references
        codes = self.codes(generator, domain)
        drawn = generator.random_style(self.scenes * count, random).float().cpu()
        distances, changes, spreads = [], [], []
        errors: dict[str, list[Tensor]] = {"code": [], "random_code": []}
        for scene, image in enumerate(self.batch["A"]):
            truth = self.batch[f"truth_{domain}"][scene].float()
            given = {"code": codes, "random_code": drawn[scene * count : (scene + 1) * count]}
            images = {name: _translated(generator, image, index, styles) for name, styles in given.items()}
            for name, styles in given.items():
                errors[name].append((_read(generator, images[name], index) - styles).abs().mean())
            with torch.autocast("cpu", enabled=False):
                distances.append(delta_e_of_all(images["code"], truth))
                off = images["code"].mean(0) - truth.mean(0)
                changes.append(delta_e_of_all((images["code"] - off).clamp(-1, 1), truth))
            spreads.append(torch.stack([_spread(of) for of in (images["code"], images["random_code"], truth)]))
        right, wrong, share, both = _told_apart(torch.stack(distances))
        spread, random_spread, true_spread = torch.stack(spreads).mean(0).tolist()
        return {
            "right": right,
            "wrong": wrong,
            "share": share,
            "both": both,
            "change_share": _told_apart(torch.stack(changes))[2],
            **self._transfer[domain],
            "spread": spread,
            "random_spread": random_spread,
            "true_spread": true_spread,
            "code_error": float(torch.stack(errors["code"]).mean()),
            "code_constant": _by_a_constant(codes),
            "random_code_error": float(torch.stack(errors["random_code"]).mean()),
            "random_code_constant": _by_a_constant(drawn),
            "code_spread": float(codes.std(0, correction=0).mean()),
        }


def _chunked(generator: StyledGenerator, function: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """``function`` on few rows at once, on the generator's device; the results as float32 on the CPU."""
    device = next(generator.parameters()).device
    parts = zip(*(tensor.split(CHUNK) for tensor in rows), strict=True)
    return torch.cat([function(*(part.to(device) for part in chunk)).float().cpu() for chunk in parts])


def _translated(generator: StyledGenerator, image: Tensor, domain: int, styles: Tensor) -> Tensor:
    """One image (C, H, W) in all styles (R, ...): (R, C, H, W) in [-1, 1]."""
    images = image.expand(len(styles), -1, -1, -1)

    def translate(image: Tensor, style: Tensor) -> Tensor:
        return translate_any_size(lambda padded: generator(padded, domain, style), image)

    return _chunked(generator, translate, images, styles).clamp(-1, 1)


def _read(generator: StyledGenerator, images: Tensor, domain: int) -> Tensor:
    return _chunked(generator, lambda image: generator.style_of(image, domain), images)


def _spread(images: Tensor) -> Tensor:
    """Standard deviation over the rows (R, C, H, W), in [-1, 1], of values in [0, 1]; mean over pixels and channels."""
    return images.clamp(-1, 1).div(2).std(0, correction=0).mean()


def _by_a_constant(codes: Tensor) -> float:
    """Mean absolute difference of codes (R, ...) to the constant that is closest to them."""
    return float((codes - codes.median(0).values).abs().mean())


def _told_apart(distances: Tensor) -> tuple[float, float, float, float]:
    """The metrics right, wrong, share and both, from the distances (S, R, R) of T(s, row) to truth(s, column)."""
    count = distances.shape[1]
    others = ~torch.eye(count, dtype=torch.bool)
    right = distances.diagonal(dim1=1, dim2=2)
    # [s, r', r]: closer than the translation in the style of r', by more than what rounding makes of equal ones.
    nearer = right[:, None, :] < distances * (1 - 1e-5)
    both = nearer & nearer.transpose(1, 2)
    return (
        float(right.double().mean()),
        float(distances[:, others].double().mean()),
        float(nearer[:, others].double().mean()),
        float(both[:, others].double().mean()),
    )


def style_evaluation_of(dataset: UnpairedDataset, method: Any, scenes: int) -> StyleEvaluation | None:
    """The evaluation of a run's styles; None if the method has no styles of references, or the truth for references is
    unknown.

    Args:
        scenes: number of test scenes in the run's evaluation; a quarter of them are translated in four styles each.
    """
    generator = getattr(method, method.generator_name)
    if not isinstance(generator, StyledGenerator) or not generator.reads_references:
        return None
    batch = dataset.style_batch(-(-scenes // SCENES_A_REFERENCE), REFERENCES)
    return None if batch is None else StyleEvaluation(batch)


ROWS = (
    ("share", "right reference nearer to its truth than a wrong one (50 %: by chance)", "{:.0%}"),
    ("change_share", "  without what the translations in all styles are off by", "{:.0%}"),
    ("transfer_share", "  of scenes given the reference's colours (Reinhard)", "{:.0%}"),
    ("right", "colour difference ΔE*ab to the truth, right reference", "{:.2f}"),
    ("wrong", "colour difference ΔE*ab to the truth, wrong reference", "{:.2f}"),
    ("spread", "how far one scene varies by reference (of 0 to 1)", "{:.4f}"),
    ("random_spread", "how far one scene varies by random style", "{:.4f}"),
    ("true_spread", "how far one scene varies in truth", "{:.4f}"),
    ("code_error", "error of a reference's style read from its translation", "{:.3f}"),
    ("code_constant", "  of guessing one style for all (should be more)", "{:.3f}"),
    ("random_code_error", "error of a random style read from its translation", "{:.3f}"),
    ("random_code_constant", "  of guessing one style for all (should be more)", "{:.3f}"),
)
"""Rows of the table: metric, title and format. The other metrics are only in ``metrics.jsonl``."""


def style_table(figures: Mapping[str, float], evaluation: StyleEvaluation) -> str:
    """The metrics for a terminal: one row per metric, one column per domain and one for their mean."""
    title = f"what a reference changes, {evaluation.scenes} test scene{'' if evaluation.scenes == 1 else 's'}"
    rows = [[f"{title}, {evaluation.references} references a domain", *evaluation.domains, "mean"]]
    for name, what, form in ROWS:
        keys = [*(f"style/{name}/{domain}" for domain in evaluation.domains), f"style/{name}"]
        rows.append([what, *(form.format(figures[key]) for key in keys)])
    return aligned(rows)
