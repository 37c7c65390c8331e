FROM python:3.12-slim

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY conf conf
COPY src src
# What is installed is this checkout, which has one version.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir '.[verifiers,zstd]' && rm -rf /src

RUN useradd --create-home --uid 1000 collector
USER 1000
WORKDIR /work
ENTRYPOINT ["ng_collect_rollouts"]
CMD ["--help"]
