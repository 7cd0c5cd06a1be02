"""A run as one HTML file that opens from disk: ``python -m cgcl_fast.report RUN``.

:mod:`.contents` reads the run's options and logs, :mod:`.pictures` translates its test images, :mod:`.charts` draws
curves, and ``page.html`` combines them.
"""

from cgcl_fast.report.page import page

__all__ = ["page"]
