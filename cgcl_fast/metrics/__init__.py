"""Metrics: distances of translations to the truth, beside the untouched and the recoloured source, the effects of
references, and more.
"""

from cgcl_fast.metrics.colour_transfer import ColourStatistics, colour_statistics, colour_transfer
from cgcl_fast.metrics.distances import DISTANCES, Distance, delta_e, delta_e_of_all, gradient_distance, psnr, ssim
from cgcl_fast.metrics.evaluation import Evaluation, evaluation_of, table
from cgcl_fast.metrics.style import StyleEvaluation, style_evaluation_of, style_table

__all__ = [
    "DISTANCES",
    "ColourStatistics",
    "Distance",
    "Evaluation",
    "StyleEvaluation",
    "colour_statistics",
    "colour_transfer",
    "delta_e",
    "delta_e_of_all",
    "evaluation_of",
    "gradient_distance",
    "psnr",
    "ssim",
    "style_evaluation_of",
    "style_table",
    "table",
]
