"""Triton kernels, one file per op: what the operators run on a GPU. Nothing here is public.

A file holds kernels and, under the names that its op registers (`forward`, `backward`, ...), plain functions with the
signatures of the operators' schemas. They take tensors of any strides, allocate the results and launch; they never wait
for the device, never read a value from it and never copy a whole map. The files import nothing of the package but each
other, and are imported when an op first needs them: importing Triton takes longer than importing the package.
"""

from __future__ import annotations

import os

#: With TRITON_INTERPRET=1 the kernels run in Triton's interpreter, on CPU tensors: slow, for tests and debugging.
#: Triton reads the variable when a kernel is decorated.
INTERPRET = os.environ.get("TRITON_INTERPRET", "0") == "1"
