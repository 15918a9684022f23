# warmeng on a CPU, or on an NVIDIA GPU:
#
#     docker build --target cpu -t warmeng:cpu .
#     docker build --target cuda -t warmeng:cuda .
#     docker run --rm -v "$PWD:/work" -v warmeng-cache:/cache warmeng:cpu run --limit 4
#     docker run --rm --gpus all -v "$PWD:/work" -v warmeng-cache:/cache warmeng:cuda run --device cuda --limit 4
#
# Runs are written into the folder that is mounted as /work; models are kept in the volume /cache.

FROM python:3.12-slim AS base
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1 \
    WARMENG_CACHE=/cache/warmeng HF_HOME=/cache/huggingface
RUN useradd --create-home user && mkdir /cache /work && chown user /cache /work
COPY . /src

# PyTorch's CPU build first: a bare requirement takes the CUDA build, several gigabytes larger.
FROM base AS cpu
RUN pip install -c /src/constraints.txt --index-url https://download.pytorch.org/whl/cpu torch \
 && pip install -c /src/constraints.txt "/src[parquet,serve,api]" && rm -rf /src
USER user
WORKDIR /work
ENTRYPOINT ["warmeng"]

# PyTorch's own build has the CUDA libraries; the driver is the host's. Triton compiles its launchers by a C compiler.
FROM base AS cuda
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/* \
 && pip install -c /src/constraints.txt "/src[gpu,parquet,serve,api]" && rm -rf /src
USER user
WORKDIR /work
ENTRYPOINT ["warmeng"]
