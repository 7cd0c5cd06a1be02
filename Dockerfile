# syntax=docker/dockerfile:1
#   docker build -t cgcl_fast .                                      for GPUs: PyTorch's default build has CUDA's libraries
#   docker build -t cgcl_fast --build-arg TORCH_INDEX=URL .          another build: the URL is that of PyTorch's "CPU" wheels
#   docker run --rm cgcl_fast                                        what was built (add --gpus all)
#   docker run --rm -v "$PWD:/work" cgcl_fast python -m cgcl_fast.train --output runs/first
ARG PYTHON=3.12

FROM python:${PYTHON} AS build
ARG TORCH_INDEX=""
# Extras of the package: metrics,figures for instance.
ARG EXTRAS=""
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv \
    && pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch>=2.11" "torchvision>=0.26" \
    && pip install "setuptools>=77" ninja "pybind11>=2.13" numpy
WORKDIR /src
COPY . .
# On GPUs the ops run in Triton; nvcc, which is not here, would build them in CUDA C++ too.
RUN CGCL_FAST_REQUIRE_NATIVE=1 CGCL_FAST_NO_CUDA=1 pip install --no-build-isolation ".${EXTRAS:+[$EXTRAS]}"

FROM python:${PYTHON}-slim
# Triton and torch.compile call a compiler when a program runs.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home user
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
USER user
WORKDIR /work
CMD ["python", "-m", "cgcl_fast.info"]
