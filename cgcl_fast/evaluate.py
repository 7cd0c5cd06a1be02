"""``python -m cgcl_fast.evaluate RUN`` or ``--images DIR --real DIR``: judge translations by the figures of the papers.

Given a run or a generator file, test images of each domain are translated to each other domain; given ``--images``, a
folder of existing translations is judged; ``--predictions`` and ``--detections`` are the output of your own models on
translations. A figure whose weights or package are missing is left out with the reason. Exit status: 0 when the figures
were computed; 1 when one named by ``--metrics`` was not; 2 for wrong options or data.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from tqdm import tqdm

from cgcl_fast import _judged
from cgcl_fast._command import Parser, UsageError, as_usage_error, bracketed, run, underscored
from cgcl_fast._judged import Way
from cgcl_fast._own_models import inception_scores, of_predictions
from cgcl_fast._pretrained import hub_name, local_path
from cgcl_fast._translator import room_for
from cgcl_fast.data import Preprocess, Reading
from cgcl_fast.data.formats import printable
from cgcl_fast.engine import make_accelerator, set_tf32
from cgcl_fast.engine.files import write_atomically
from cgcl_fast.methods.options import Count, CountOrZero, Side, Within, check
from cgcl_fast.metrics import StyleEvaluation, evaluation_of, style_table, table
from cgcl_fast.metrics.classifier import DomainClassifier, load_classifier
from cgcl_fast.metrics.comparison import FIGURES, METRICS, NETWORK_OF, Judges, compare, load_judges
from cgcl_fast.metrics.cost import model_bytes, seconds_an_image
from cgcl_fast.metrics.distances import DISTANCES, Distance
from cgcl_fast.metrics.evaluation import AFTER, aligned
from cgcl_fast.metrics.feature_distances import SUBSET_SIZE
from cgcl_fast.metrics.features import FeatureSet, features_of
from cgcl_fast.metrics.image_sets import DomainImages, FolderImages, Images
from cgcl_fast.metrics.paired import distances_to_truth
from cgcl_fast.metrics.perceptual import INPUTS, PAIRS, real_diversity, style_diversity
from cgcl_fast.metrics.protocol import machine, of_preprocess, versions
from cgcl_fast.metrics.segmentation import Labels
from cgcl_fast.metrics.style import REFERENCES, SCENES_A_REFERENCE
from cgcl_fast.metrics.weights import MeasureError, WeightFiles

Metric = Literal["lite0", "fid", "kid", "is", "precision", "lpips", "diversity", "truth", "cost"]
Metrics = tuple[Metric, ...]


@dataclass
class EvaluateOptions:
    """Evaluation.

    Attributes:
        checkpoint: A run folder, one of its checkpoints, a .safetensors generator, a published latest_net_G.pth, or a
            folder of cgcl_fast.hub or its name on the Hugging Face Hub; as RUN.
        images: In place of RUN, a folder of translations that are there already.
        real: Real images of the target domain, which those of images are compared with.
        truth: What the images of images should be, under the same names; it gives PSNR, SSIM and LPIPS.
        data: Folder of test images, as that of train; if not given, the test images of the run, or the built-in streets
            that it was trained on.
        output: JSON file for figures and protocol; RUN/evaluation.json if not given.
        metrics: lite0 (Fréchet and kernel distance, precision and recall in the features of EfficientNet-Lite0, which
            needs no download), fid, kid, is (Inception-V3), precision (and recall, VGG-16), lpips and diversity
            (AlexNet), truth (PSNR, SSIM, colour and gradient distance), cost (size and speed). All if not given.
        styles: Random styles in which each image is translated, for a generator with styles; 1 if it draws one.
        scenes: Test scenes that are compared with their truth, where it is known.
        inputs: Images whose diversity is measured.
        pairs: Pairs of random styles of each of them.
        classifier: File of python -m cgcl_fast.metrics.finetune, by which IS and CIS of the translations of inputs
            images in classifier_styles random styles each are computed.
        classifier_styles: Random styles of each of those.
        predictions: Folder of label maps that a segmentation model predicted of translations, for Cityscapes' mean IoU,
            pixel and class accuracy.
        labels: Folder of the true label maps, under the same names.
        labels_are: trainids (0 to 18) or ids, of both.
        detections: JSON file of what a detector found in translations, as COCO's results, for AP and mAP.
        annotations: The true objects: a COCO file, or a folder of annotated images.
        direction: AtoB or BtoA, for a method with a generator of each way; both if not given.
        size: Side of the images; that of the run's training, or 256.
        preprocess: What is done to images first, as in training (resize_and_crop of test images is a resize); that of
            the run, for folders none.
        limit: Use no more than this many images of each domain or folder.
        features: A folder of the weights' files under their published names, or one such file.
        other_weights: Files in features need not have the SHA-256 of the published ones.
        batch_size: Images at a time.
        workers: Processes that read images.
        seed: Of random styles and pairs.
        max_megapixels: Larger images are left out.
        device: auto, cpu or cuda.
        precision: fp32, bf16 or fp16, of translations.
        timeout: Seconds that processes wait for one that does not answer.
    """

    checkpoint: Path | None = None
    images: Path | None = None
    real: Path | None = None
    truth: Path | None = None
    data: Path | None = None
    output: Path | None = None
    metrics: Metrics = ()
    styles: Count = 1
    scenes: CountOrZero = 100
    inputs: Count = INPUTS
    pairs: Count = PAIRS
    classifier: Path | None = None
    classifier_styles: Count = 100
    predictions: Path | None = None
    labels: Path | None = None
    labels_are: Labels = "trainids"
    detections: Path | None = None
    annotations: Path | None = None
    direction: Literal["AtoB", "BtoA"] | None = None
    size: Side | None = None
    preprocess: str | None = None
    limit: Count | None = None
    features: Path | None = None
    other_weights: bool = False
    batch_size: Count = 16
    workers: Annotated[int, Within(0, 1024)] = 0
    seed: Annotated[int, Within(0, 2**32 - 1)] = 0
    max_megapixels: Count = 179
    device: str = "auto"
    precision: str = "fp32"
    timeout: Annotated[int, Within(1, 10**6)] = 3600

    def __post_init__(self) -> None:
        check(self)
        seen = self.predictions is not None or self.detections is not None
        if self.checkpoint is not None and self.images is not None:
            raise ValueError("images: is in place of a run; give one of them")
        if self.checkpoint is None and self.images is None and not seen:
            raise ValueError("expected a run (or its file) to translate with, or --images DIR --real DIR; see --help")
        for one, other in (("predictions", "labels"), ("detections", "annotations")):
            if (getattr(self, one) is None) != (getattr(self, other) is None):
                raise ValueError(f"{one}: goes with {other}; expected both or neither")
        if self.images is not None and self.real is None and self.truth is None:
            raise ValueError("real: expected a folder of real images (or --truth one of true translations)")
        if self.images is None:
            for name in ("real", "truth"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name}: is for --images; a run has its own, or --data DIR")
        for name in ("checkpoint", "features", "classifier", "predictions", "labels", "detections", "annotations"):
            path = getattr(self, name)
            if path is not None and not path.exists() and (name != "checkpoint" or hub_name(path) is None):
                raise ValueError(f"{name}: {printable(path)} does not exist")
        if self.other_weights and self.features is None:
            raise ValueError("other_weights: expected --features with the files")


@dataclass
class Judging:
    """The state shared by the computations of an evaluation.

    Attributes:
        scratch: folder for features that do not stay in memory.
    """

    options: EvaluateOptions
    accelerator: Accelerator
    judges: Judges
    scratch: Path

    @property
    def main(self) -> bool:
        return self.accelerator.is_main_process

    def has(self, *metrics: str) -> bool:
        """Whether one of these figures is requested and available."""
        return any(name in self.judges.metrics for name in metrics)

    def features(self, images: Images, what: str, **more: Any) -> FeatureSet | None:
        """The features of a set of images, with a labelled progress bar."""
        copies = more.get("copies", 1)
        interval = 0.2 if sys.stderr.isatty() else 10
        with tqdm(
            total=len(images) * copies,
            desc=what,
            unit="image",
            mininterval=interval,
            dynamic_ncols=True,
            disable=not self.main,
        ) as bar:
            return features_of(
                images,
                self.judges.networks,
                self.accelerator,
                batch_size=self.options.batch_size,
                workers=self.options.workers,
                allocate=lambda shape: room_for(shape, "float32", self.scratch),
                progress=bar.update,
                **more,
            )

    def distances(self) -> dict[str, Distance]:
        """The requested distances to the truth."""
        found = dict(DISTANCES) if self.has("truth") else {}
        lpips = self.judges.lpips
        if self.has("lpips") and lpips is not None:
            found["lpips"] = _lpips_distance(lpips)
        return found


def _lpips_distance(measure: Callable[[Tensor, Tensor], Tensor]) -> Distance:
    return Distance(measure, "LPIPS, AlexNet", False, 3)


def evaluate(arguments: Sequence[str]) -> int:
    """The command; see the module."""
    parser = Parser(
        prog="python -m cgcl_fast.evaluate",
        usage="python -m cgcl_fast.evaluate (RUN | --images DIR --real DIR | --predictions DIR --labels DIR) [options]",
        description=__doc__,
    )
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="As --checkpoint.")
    parser.add_class_arguments(EvaluateOptions, None, skip={"other_weights"})
    parser.add_argument(
        "--other_weights",
        action="store_true",
        help="Take files in --features of another SHA-256 than the published; figures are not those of papers then.",
    )
    parsed = parser.parse_args(bracketed(underscored(arguments), {"metrics"})).as_dict()
    named = parsed.pop("run")
    with as_usage_error():
        if named is not None and parsed["checkpoint"] is not None:
            raise UsageError("RUN and --checkpoint are the same; give one of them")
        options = EvaluateOptions(**{**parsed, "checkpoint": named or parsed["checkpoint"]})
        accelerator = make_accelerator(device=options.device, precision=options.precision, timeout=options.timeout)
        if accelerator.device.type == "cuda":
            set_tf32(False)  # figures are computed in float32
        output = _output(options)
        if options.checkpoint is not None:
            with accelerator.main_process_first():  # which downloads
                options = replace(options, checkpoint=local_path(options.checkpoint))
        folder = (output or Path(".")).absolute().parent
        if accelerator.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
        judging = Judging(options, accelerator, _judges(options, accelerator), folder)
        found: dict[str, Any] = {"results": [], "protocol": {}}
        with torch.no_grad():
            if options.checkpoint is not None or options.images is not None:
                found = judge_run(judging) if options.images is None else judge_folder(judging)
        if accelerator.is_main_process:
            results, protocol = of_predictions(
                options.predictions, options.labels, options.labels_are, options.detections, options.annotations
            )
            found["results"] += results
            found["protocol"] |= protocol
    skipped = judging.judges.skipped
    if not accelerator.is_main_process:
        return 0
    if not any(found.get(name) for name in ("results", "truth", "cost")):
        raise UsageError("; ".join(_left_out(skipped)))
    found["skipped"] = skipped
    found["protocol"] |= {
        "images_as": "uint8 RGB, as saved in 8 bits",
        **judging.judges.protocol(),
        "batch_size": options.batch_size,
        "seed": options.seed,
        **machine(accelerator),
        "precision_of_translations": options.precision,
        "precision_of_features": "fp32",  # and of distances to the truth
        "versions": versions(),
    }
    print(report(found))
    for line in _left_out(skipped):
        print(line, file=sys.stderr)
    if output is not None:
        text = json.dumps(found, indent=1) + "\n"
        write_atomically(output, lambda file: file.write(text.encode()))
        print(f"figures and protocol: {printable(output)}")
    return 1 if skipped.keys() & set(options.metrics) else 0


def _left_out(skipped: Mapping[str, str]) -> list[str]:
    """One line per reason, with the figures that are left out for it."""
    return [
        f"{', '.join(name for name, other in skipped.items() if other == reason)} left out: {reason}"
        for reason in dict.fromkeys(skipped.values())
    ]


def _output(options: EvaluateOptions) -> Path | None:
    if options.output is not None:
        if options.output.is_dir():
            raise UsageError(f"--output: {printable(options.output)} is a folder; name a file in it")
        return options.output
    if options.checkpoint is not None and options.checkpoint.is_dir():
        return options.checkpoint / "evaluation.json"
    return None


def _judges(options: EvaluateOptions, accelerator: Accelerator) -> Judges:
    """The networks of the requested figures, the same in all processes."""
    metrics: set[str] = set(options.metrics or METRICS)
    if options.checkpoint is None and options.images is None:
        metrics = set()
    elif options.images is not None:
        metrics -= {"cost", "diversity"} if not options.metrics else set()
        unfit = metrics & {"cost", "diversity"}
        if unfit:
            raise UsageError(f"metrics: {', '.join(sorted(unfit))}: of a run, not of a folder of images")
        if options.real is None:
            metrics -= NETWORK_OF.keys()
        if options.truth is None:
            metrics -= {"truth", "lpips"}
        if not metrics and options.classifier is None:
            raise UsageError(f"metrics: {', '.join(options.metrics)}: need --real or --truth, which is not given")
    with accelerator.main_process_first():  # which downloads
        judges = load_judges(sorted(metrics), WeightFiles(options.features, options.other_weights), accelerator.device)
    for skipped in gather_object([judges.skipped]):
        for name, reason in skipped.items():
            judges.skip([name], reason)
    return judges


# ------------------------------------------------------------------------------------------------------- folders, runs


def judge_folder(judging: Judging) -> dict[str, Any]:
    """Figures and protocol for a folder of translations."""
    options = judging.options
    preprocess = Preprocess(
        options.preprocess or ("none" if options.size is None else "resize"),
        size=options.size or 256,
        train=False,
        flip=False,
        multiple=1,
    )

    def images_of(folder: Path) -> FolderImages:
        reading = Reading(most_pixels=options.max_megapixels * 10**6)
        return FolderImages(folder, preprocess, limit=options.limit, reading=reading)

    assert options.images is not None
    images = images_of(options.images)
    protocol: dict[str, Any] = {"images": str(options.images), **of_preprocess(preprocess)}
    found: dict[str, Any] = {"results": [], "protocol": protocol}
    if options.real is not None and judging.judges.networks:
        real = images_of(options.real)
        protocol["real"] = str(options.real)
        sets = [judging.features(each, what) for each, what in ((images, "images"), (real, "real images"))]
        generated, of_real = sets
        if generated is not None and of_real is not None:
            result = {"of": options.images.name, **_counts(len(images), len(real))}
            if figures := compare(generated, of_real, judging.judges):
                found["results"].append({**result, "figures": figures})
    classifier = _classifier(judging, protocol)
    if classifier is not None:
        figures = inception_scores(
            classifier,
            images,
            lambda each, _: each,
            judging.accelerator,
            inputs=len(images),
            styles=1,
            batch_size=options.batch_size,
        )
        found["results"].append({"of": options.images.name, "images": len(images), "figures": figures})
    distances = judging.distances()
    if options.truth is not None and distances:
        protocol["truth"] = str(options.truth)
        try:
            figures, count = distances_to_truth(
                images,
                images_of(options.truth),
                distances,
                judging.accelerator,
                batch_size=options.batch_size,
            )
            after = {f"{name}/{AFTER}": value for name, value in figures.items()}
            found["truth"] = [{"of": options.images.name, "scenes": count, "figures": after}]
        except (MeasureError, ValueError) as error:
            judging.judges.skip(("truth", "lpips"), error)
    return found


def judge_run(judging: Judging) -> dict[str, Any]:
    """Figures and protocol for a run: it translates its test images, or those in ``--data``."""
    options, accelerator = judging.options, judging.accelerator
    assert options.checkpoint is not None
    config = _judged.config_of(options.checkpoint)
    source = _judged.source_of(
        config,
        data=options.data,
        size=options.size,
        preprocess=options.preprocess,
        limit=options.limit,
        most_pixels=options.max_megapixels * 10**6,
    )
    ways, file = _judged.find_ways(options.checkpoint, options.direction, source, accelerator.device, options.precision)
    found: dict[str, Any] = {"results": [], "protocol": _of_run(judging, config, source, ways, file)}
    sets: dict[str, FeatureSet | None] = {}

    def images_of(way: Way, which: int) -> DomainImages:
        return DomainImages(way.dataset, way.keys[which], source.limit)

    def real(way: Way, which: int) -> FeatureSet | None:
        name = (way.source, way.target)[which]
        if name not in sets:
            sets[name] = judging.features(images_of(way, which), f"real {name}")
        return sets[name]

    classifier = _classifier(judging, found["protocol"])
    for way in ways:
        result: dict[str, Any] = {"of": f"{way.source} to {way.target}", "figures": {}}
        if judging.has(*NETWORK_OF):
            generated = _features_of_translations(judging, way, images_of(way, 0))
            untouched, target = real(way, 0), real(way, 1)
            if generated is not None and untouched is not None and target is not None:
                copies = options.styles if way.styled else 1
                result |= {
                    **_counts(len(images_of(way, 0)) * copies, len(images_of(way, 1))),
                    "figures": compare(generated, target, judging.judges),
                    "untouched": compare(untouched, target, judging.judges),
                }
        if classifier is not None:
            result["figures"] |= _by_classifier(judging, classifier, way, images_of(way, 0))
        if judging.has("diversity"):
            result["figures"] |= _diversity(judging, way, images_of(way, 0), images_of(way, 1))
        if result["figures"]:
            found["results"].append(result)
    if accelerator.is_main_process:
        if options.scenes and judging.distances():
            found |= _truth(judging, ways)
        if judging.has("cost"):
            found["cost"] = _cost(ways[0], accelerator.device)
    accelerator.wait_for_everyone()
    of_all = [result["figures"] for result in found["results"]]
    if len(of_all) > 1:
        shared = [name for name in of_all[0] if all(name in figures for figures in of_all)]
        found["mean"] = {name: sum(figures[name] for figures in of_all) / len(of_all) for name in shared}
    return found


def _counts(images: int, real: int) -> dict[str, int]:
    return {"images": images, "real": real, "kernel_subset_size": min(SUBSET_SIZE, images, real)}


def _features_of_translations(judging: Judging, way: Way, images: Images) -> FeatureSet | None:
    options, count = judging.options, len(images)
    copies = options.styles if way.styled else 1

    def translated(batch: Tensor, numbers: Sequence[int]) -> Tensor:
        styles = way.random_styles(options.seed, [f"{number % count} {number // count}" for number in numbers])
        return way.translate(batch, styles)

    return judging.features(images, f"{way.source} to {way.target}", transform=translated, copies=copies)


def _classifier(judging: Judging, protocol: dict[str, Any]) -> DomainClassifier | None:
    """Load the classifier of ``--classifier`` and name it in the protocol."""
    path = judging.options.classifier
    if path is None:
        return None
    classifier, sha256 = load_classifier(path)
    protocol["classifier"] = {"file": str(path), "classes": classifier.domains, "sha256": sha256}
    protocol["classifier"]["resize"] = f"bilinear to {classifier.size}x{classifier.size}"
    return classifier.to(judging.accelerator.device)


def _by_classifier(judging: Judging, classifier: DomainClassifier, way: Way, images: Images) -> dict[str, float]:
    options = judging.options

    def translated(batch: Tensor, names: Sequence[str]) -> Tensor:
        return way.translate(batch, way.random_styles(options.seed, names))

    return inception_scores(
        classifier,
        images,
        translated,
        judging.accelerator,
        inputs=options.inputs,
        styles=options.classifier_styles if way.styled else 1,
        batch_size=options.batch_size,
    )


def _diversity(judging: Judging, way: Way, images: Images, real: Images) -> dict[str, float]:
    options, lpips = judging.options, judging.judges.lpips
    assert lpips is not None

    def in_styles(image: Tensor, names: Sequence[str]) -> Tensor:
        return way.translate(image, way.random_styles(options.seed, names))

    try:
        if way.styled is None:
            return {}
        found = style_diversity(
            lpips,
            images,
            in_styles,
            judging.accelerator,
            inputs=options.inputs,
            pairs=options.pairs,
            batch_size=max(1, options.batch_size // 2),
        )
        figures = {"diversity": found.mean, "diversity_std": found.std}
        count = options.inputs * options.pairs
        between = real_diversity(lpips, real, judging.accelerator, count=count, seed=options.seed)
        return {**figures, "real_diversity": between.mean, "real_diversity_std": between.std}
    except MeasureError as error:
        judging.judges.skip(["diversity"], error)
        return {}


def _truth(judging: Judging, ways: Sequence[Way]) -> dict[str, Any]:
    """Distances of test scenes to their truth, and what references change, measured as in training."""
    options, styled = judging.options, ways[0].styled
    by_reference = styled is not None and styled.reads_references
    found: dict[str, Any] = {"truth": []}
    try:
        # With references one batch has the truth of all domains, else it is that of the last one.
        for way in ways[:1] if by_reference else [way for way in ways if way.keys[1] == way.dataset.domains[-1]]:
            measured = evaluation_of(way.dataset, options.scenes, judging.distances())
            if measured is not None:
                of = "all domains" if by_reference else f"{way.source} to {way.target}"
                figures = measured(_judged.Samples(way))
                found["truth"].append({"of": of, "scenes": measured.scenes, "figures": figures})
        batch = None
        if styled is not None and by_reference and judging.has("truth"):
            batch = ways[0].dataset.style_batch(-(-options.scenes // SCENES_A_REFERENCE), REFERENCES)
        if styled is not None and batch is not None:
            styles = StyleEvaluation(batch)
            figures = styles.of_generator(styled)
            said = style_table(figures, styles)
            found["styles"] = {"scenes": styles.scenes, "references": styles.references, "figures": figures}
            found["styles"]["table"] = said.splitlines()
    except (MeasureError, ValueError) as error:
        judging.judges.skip(("truth", "lpips"), error)
    return found


def _cost(way: Way, device: torch.device) -> dict[str, float]:
    image = DomainImages(way.dataset, way.keys[0], 1)[0][None]
    styles = way.random_styles(0, [0])
    return {
        "model_bytes": model_bytes(way.translator.generator),
        "seconds_an_image": seconds_an_image(lambda each: way.translate(each, styles), image, device),
        "pixels": image.shape[-1] * image.shape[-2],
    }


def _of_run(
    judging: Judging, config: Mapping[str, Any], source: _judged.Source, ways: Sequence[Way], file: Path
) -> dict[str, Any]:
    options, dataset = judging.options, ways[0].dataset
    step = re.search(r"\d{8}", file.name)
    return {
        "generator": str(file),
        "step": int(step[0]) if step else config.get("step"),
        "epoch": _epoch(options.checkpoint, int(step[0])) if step else None,
        "method": config.get("method"),
        "data": "built-in streets" if source.data is None else str(source.data),
        "split": getattr(dataset, "split", None),
        **(
            of_preprocess(dataset.preprocess)
            if source.data is not None
            else {"preprocess": "rendered", "size": source.size, "seed_of_streets": source.seed}
        ),
        "styles_an_image": options.styles if ways[0].styled else 1,
        "diversity_inputs": min(options.inputs, *(dataset.count(name) for name in dataset.domains)),
        "diversity_pairs": options.pairs,
        **({"classifier_styles": options.classifier_styles} if options.classifier and ways[0].styled else {}),
    }


def _epoch(checkpoint: Path | None, step: int) -> int | None:
    """The epoch of a step, as the run's log has it."""
    assert checkpoint is not None
    for folder in (checkpoint, checkpoint.parent, checkpoint.parent.parent):
        with suppress(OSError, ValueError, KeyError, TypeError):
            lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
            return max(each["epoch"] for line in lines if (each := json.loads(line))["step"] <= step)
    return None


# ------------------------------------------------------------------------------------------------------------ the table


ARROWS = {True: " ↑", False: " ↓", None: ""}


def report(found: Mapping[str, Any]) -> str:
    """The results as text: tables with an explanation of their columns."""
    parts = []
    rows: list[tuple[str, Mapping[str, float]]] = []
    for result in found["results"]:
        rows.append((result["of"], result["figures"]))
        if result.get("untouched"):
            rows.append(("  untouched", result["untouched"]))
    if "mean" in found:
        rows.append(("mean", found["mean"]))
    columns = [name for name in FIGURES if any(name in figures for _, figures in rows)]
    if columns:
        head = [name + ARROWS[FIGURES[name].higher_is_better] for name in columns]
        cells = [[of, *(_cell(name, figures) for name in columns)] for of, figures in rows]
        parts.append(aligned([["", *head], *cells]))
        parts.append("\n".join(f"{name}: {FIGURES[name].title}" for name in columns))
    if not all(each["published_weights"] for each in found["protocol"]["networks"].values()):
        parts.append("with other weights than the published ones: these are not the papers' figures")
    shown = {**DISTANCES, "lpips": _lpips_distance(DISTANCES["psnr"].measure)}
    for truth in found.get("truth", []):
        parts.append(f"{truth['of']}:\n{table(truth['figures'], truth['scenes'], shown)}")
    if "styles" in found:
        parts.append("\n".join(found["styles"]["table"]))
    if "cost" in found:
        cost = found["cost"]
        parts.append(
            f"generator: {cost['model_bytes'] / 1e6:.1f} MB of float32, {cost['seconds_an_image']:.4f} seconds an "
            f"image of {cost['pixels']} pixels"
        )
    return "\n\n".join(parts)


def _cell(name: str, figures: Mapping[str, float]) -> str:
    if name not in figures:
        return "-"
    digits = FIGURES[name].digits
    std = figures.get(f"{name}_std")
    return f"{figures[name]:.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}")


def main(arguments: Sequence[str] | None = None) -> int:
    return run(evaluate, arguments)


if __name__ == "__main__":
    sys.exit(main())
