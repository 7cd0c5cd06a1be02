"""Triton kernels, one file per op: what the operators run on a GPU. Nothing here is public.

A file holds Triton kernels and plain functions (`forward`, `backward`, ...) with the signatures of the operators'
schemas. The functions take tensors of any strides, allocate the results and launch the kernels. They never wait for the
device, never read a value from it and never copy a whole map. The files import nothing of the package but each other,
and only when an op first needs them, because importing Triton takes longer than importing the package.
"""

from __future__ import annotations

import os

#: With TRITON_INTERPRET=1 the kernels run in Triton's interpreter, on CPU tensors: slow, for tests and debugging.
#: Triton reads the variable when a kernel is decorated.
INTERPRET = os.environ.get("TRITON_INTERPRET", "0") == "1"
