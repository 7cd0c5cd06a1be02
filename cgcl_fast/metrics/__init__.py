"""Metrics: how far translations are from their true counterparts, beside the untouched and the recoloured source."""

from cgcl_fast.metrics.colour_transfer import ColourStatistics, colour_statistics, colour_transfer
from cgcl_fast.metrics.distances import DISTANCES, Distance, delta_e, gradient_distance, psnr, ssim
from cgcl_fast.metrics.evaluation import Evaluation, evaluation_of, table

__all__ = [
    "DISTANCES",
    "ColourStatistics",
    "Distance",
    "Evaluation",
    "colour_statistics",
    "colour_transfer",
    "delta_e",
    "evaluation_of",
    "gradient_distance",
    "psnr",
    "ssim",
    "table",
]
