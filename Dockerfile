# The CUDA libraries make up most of this image, although penstock runs on the CPU: on Linux the wheel of PyTorch that the package
# index offers is the CUDA build, and it cannot be imported without them.
ARG PYTHON=3.13-slim-trixie

FROM python:${PYTHON} AS builder
WORKDIR /build
COPY requirements/build.txt requirements/runtime.txt requirements/
RUN python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements/build.txt
RUN python -m venv --without-pip /opt/penstock \
    && uv pip install --python /opt/penstock --no-cache --compile-bytecode --no-deps --require-hashes -r requirements/runtime.txt
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY schemas schemas
COPY service service
# The link gives the demo's network and weights a path that does not name a Python version.
RUN python -m hatchling build -t wheel \
    && uv pip install --python /opt/penstock --no-cache --compile-bytecode --no-deps dist/*.whl \
    && ln -s "$(/opt/penstock/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/service/demo" /opt/penstock/demo

FROM python:${PYTHON}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="penstock" \
      org.opencontainers.image.description="Exactly-once stream processing of sensor topics with PyTorch networks" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin penstock
COPY --from=builder /opt/penstock /opt/penstock
# Nothing is written outside /tmp, so that the root file system may be read-only. Models of your own: put their code on PYTHONPATH.
ENV PATH=/opt/penstock/bin:${PATH} \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONPATH=/opt/models
USER 10001:10001
# The process exists and is neither stopped nor dead. A broker that is away is no reason to restart: the service waits for it.
HEALTHCHECK --interval=30s --timeout=3s CMD ["awk", "/^State:/ { exit ($2 ~ /[TtXZ]/) }", "/proc/1/status"]
ENTRYPOINT ["penstock"]
CMD ["run", "/etc/penstock/config.yaml"]
