"""Figures of a trained method: functions that compute what is shown, and functions that draw it with matplotlib.

``python -m cgcl_fast.figures RUN`` draws all figures that fit a run. Drawing needs the extra ``figures``; computing
does not, except for principal components and t-SNE (scikit-learn) and Grad-CAM (captum).
"""

from cgcl_fast.figures.attention import Attention, attention, attention_figure, selection_frequency
from cgcl_fast.figures.components import components_figure, principal_components
from cgcl_fast.figures.curves import Curve, losses_figure, metrics_figure, read_curves
from cgcl_fast.figures.embedding import tsne
from cgcl_fast.figures.features import Compared, DoesNotFitError, Layer, features, projected_features
from cgcl_fast.figures.grad_cam import Explanation, grad_cam, grad_cam_figure
from cgcl_fast.figures.instances import find_instances, instances_figure, translate_instances
from cgcl_fast.figures.memory import Assignments, memory_assignments, memory_figure
from cgcl_fast.figures.similarity import similarity_figure, similarity_map
from cgcl_fast.figures.style_codes import StyleCodes, style_codes, style_codes_figure
from cgcl_fast.figures.styles import between, in_styles, styles_figure

__all__ = [
    "Assignments",
    "Attention",
    "Compared",
    "Curve",
    "DoesNotFitError",
    "Explanation",
    "Layer",
    "StyleCodes",
    "attention",
    "attention_figure",
    "between",
    "components_figure",
    "features",
    "find_instances",
    "grad_cam",
    "grad_cam_figure",
    "in_styles",
    "instances_figure",
    "losses_figure",
    "memory_assignments",
    "memory_figure",
    "metrics_figure",
    "principal_components",
    "projected_features",
    "read_curves",
    "selection_frequency",
    "similarity_figure",
    "similarity_map",
    "style_codes",
    "style_codes_figure",
    "styles_figure",
    "translate_instances",
    "tsne",
]
