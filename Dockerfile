# Other extras: docker build --build-arg EXTRAS=verifiers,remote,zstd,parquet,ray .
FROM python:3.12-slim AS built

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY conf conf
COPY src src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim

ARG EXTRAS=verifiers,remote,zstd,parquet
# What is installed is the wheel of this checkout, which has one version.
# hadolint ignore=DL3013,DL3042
RUN --mount=type=bind,from=built,source=/wheels,target=/wheels \
    wheel=$(echo /wheels/*.whl) && pip install --no-cache-dir "ng_rollouts[$EXTRAS] @ file://$wheel"

# A folder of yours is written to as you: docker run --user "$(id -u):$(id -g)" -v "$PWD:/work" ...
RUN useradd --create-home --uid 1000 collector
ENV HOME=/tmp
USER 1000
WORKDIR /work
ENTRYPOINT ["ng_collect_rollouts"]
CMD ["--help"]
