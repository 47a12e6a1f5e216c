"""Pictures of what a network has learned: filters, features, attributions; and the report page.

What lives here: images and plots. What does not: diagrams (diagram), plots of training (experiments/plots).
"""
from fxgrow.visual.attention import plot_attention
from fxgrow.visual.features import plot_features
from fxgrow.visual.filters import filter_grid, filter_limits, first_convolution
from fxgrow.visual.panels import check_suffix
from fxgrow.visual.plots import plot_filters, plot_saliency
from fxgrow.visual.reporting import report, write_report

__all__ = ["check_suffix", "filter_grid", "filter_limits", "first_convolution", "plot_attention", "plot_features",
           "plot_filters", "plot_saliency", "report", "write_report"]
