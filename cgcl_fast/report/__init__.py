"""One HTML file of a run, which opens from disk: ``python -m cgcl_fast.report RUN``.

What the run was told and what it told are read by :mod:`.contents`, its test images translated by :mod:`.pictures`,
curves drawn by :mod:`.charts`, and ``page.html`` puts them together.
"""

from cgcl_fast.report.page import page

__all__ = ["page"]
