# sixfold in a container, from the lock: `docker build -t sixfold .`, then
#   docker run --rm --gpus all -v "$PWD:/work" sixfold generate recipes/sandbox.yaml --scale 6x --out out/sandbox
# On a machine without an NVIDIA GPU: docker build --build-arg LOCK=requirements.lock -t sixfold .
FROM python:3.11-slim-bookworm

ARG LOCK=requirements-gpu.lock
# DeepSpeed looks for a C++ compiler, libgomp is torch's, and KubeRay before 1.6 asks with wget whether Ray is up;
# Ray's launcher copies files into the container with rsync, and the head reaches its workers with ssh
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libgomp1 openssh-client rsync wget \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir "uv==0.13.*" \
    && useradd --create-home --uid 1000 sixfold

WORKDIR /opt/sixfold
COPY ${LOCK} requirements.lock
RUN uv pip sync --system --no-cache --compile-bytecode requirements.lock
COPY . .
RUN uv pip install --system --no-cache --no-deps . \
    && rm -rf /opt/sixfold

USER 1000
WORKDIR /work
ENTRYPOINT ["sixfold"]
CMD ["--help"]
