# syntax=docker/dockerfile:1
# Images of pathways_lite, one for each kind of device, with the versions of uv.lock:
#
#   docker build --target cpu    --tag pathways-lite:cpu    .
#   docker build --target tpu    --tag pathways-lite:tpu    .
#   docker build --target cuda13 --tag pathways-lite:cuda13 .
#   docker run --rm --volume "$PWD:/work" pathways-lite:cpu train demo
#
# cuda13 needs the NVIDIA container toolkit on the host (docker run --gpus all), and no CUDA in the image: JAX brings it.
# tests/test_dockerfile.py lints this file and runs its build command; the images themselves were not built, for lack of Docker.

FROM python:3.12-slim-bookworm AS build
COPY --from=ghcr.io/astral-sh/uv:0.13.8 /uv /usr/local/bin/uv
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=/opt/pathways_lite
# The compiler of attention for CPUs, which stays in this stage.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++=4:12.2.* \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .

FROM build AS build-cpu
RUN uv sync --frozen --no-dev --no-editable --no-cache

FROM build AS build-tpu
RUN uv sync --frozen --no-dev --no-editable --no-cache --extra tpu

FROM build AS build-cuda13
RUN uv sync --frozen --no-dev --no-editable --no-cache --extra cuda13

FROM python:3.12-slim-bookworm AS runtime
ENV PATH=/opt/pathways_lite/bin:$PATH HOME=/tmp
WORKDIR /work
STOPSIGNAL SIGTERM
ENTRYPOINT ["pathways-lite"]
CMD ["--help"]

# As root, to which the files of TPU devices belong; the other images run as a user, by default 1000 (docker run --user).
FROM runtime AS tpu
COPY --from=build-tpu /opt/pathways_lite /opt/pathways_lite

FROM runtime AS cuda13
COPY --from=build-cuda13 /opt/pathways_lite /opt/pathways_lite
USER 1000

FROM runtime AS cpu
COPY --from=build-cpu /opt/pathways_lite /opt/pathways_lite
USER 1000
