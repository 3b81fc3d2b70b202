# The lab on a CUDA machine: docker build -t collapselab . && docker run --gpus all -v "$PWD/runs:/lab/runs" collapselab run ...
# For several GPUs, and for a runs folder of another user: docs/gpus.md. torch's wheels include CUDA 13's libraries, so the base needs only the driver's interface.
FROM nvidia/cuda:13.0.2-base-ubuntu24.04

# Triton and torch build their kernels' launchers with the compiler. The Ubuntu image's own user has the id that most hosts give their first user; ours replaces it.
ARG UID=1000
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv python3-dev gcc g++ libc6-dev git \
 && rm -rf /var/lib/apt/lists/* \
 && (userdel --remove ubuntu || true) \
 && useradd --create-home --uid "$UID" --shell /bin/bash lab \
 && install -d -o lab -g lab /lab /lab/runs /home/lab/.cache

USER lab
WORKDIR /lab
COPY --chown=lab:lab . .
# The same install path as on a laptop. On a CUDA base pip installs torch's CUDA build.
RUN PIP_NO_CACHE_DIR=1 scripts/setup.sh
# Compiled kernels are kept in the volume with the other caches, so that the next container does not recompile them.
ENV PATH=/lab/.venv/bin:$PATH TRITON_CACHE_DIR=/home/lab/.cache/triton TORCHINDUCTOR_CACHE_DIR=/home/lab/.cache/inductor
VOLUME ["/lab/runs", "/home/lab/.cache"]
ENTRYPOINT ["collapselab"]
CMD ["--help"]
