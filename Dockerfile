# Both stages use the same base image, so that the environment made in one works in the other.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
# What to install in place of the build of torch that constraints.txt names, such as torch==2.13.0.
ARG TORCH=""
# pip's own settings, for this stage alone.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /src
RUN python -m venv /opt/bh-bids
# The dependencies come first: a change of the code alone does not fetch them again.
COPY constraints.txt pyproject.toml ./
# Where no index has the CPU build of torch, the default build of the same version is taken.
RUN if [[ -n "${TORCH}" ]]; then \
        sed -i "s|^torch==.*|${TORCH}|" constraints.txt; \
    fi \
 && { /opt/bh-bids/bin/pip install -c constraints.txt torch \
      || { sed -i 's/+cpu$//' constraints.txt \
           && /opt/bh-bids/bin/pip install -c constraints.txt torch; }; } \
 && /opt/bh-bids/bin/python -c 'import tomllib; \
print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
        > requirements.txt \
 && /opt/bh-bids/bin/pip install -c constraints.txt -r requirements.txt
COPY setup.cfg README.md LICENSE ./
COPY workflows workflows
COPY bh_bids bh_bids
RUN /opt/bh-bids/bin/pip wheel --no-deps --wheel-dir /wheels . \
 && /opt/bh-bids/bin/pip install --no-deps /wheels/*.whl \
 && /opt/bh-bids/bin/pip check \
 && /opt/bh-bids/bin/bh-bids --version \
 && /opt/bh-bids/bin/bh-model verify default

FROM ${BASE}
ARG VERSION=0.2.0
ARG REVISION=""
LABEL org.opencontainers.image.title="bh-bids" \
      org.opencontainers.image.description="BIDS App that harmonizes T1-weighted MR images blindly" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.authors="The bh-bids developers"
COPY --from=build /opt/bh-bids /opt/bh-bids
# Any other user may run it too; nothing is read from or written to a home folder.
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin bh-bids
ENV PATH="/opt/bh-bids/bin:${PATH}" \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONNOUSERSITE=1 \
    PYTHONUNBUFFERED=1 \
    TEMPLATEFLOW_AUTOUPDATE=0
USER bh-bids
WORKDIR /tmp
ENTRYPOINT ["/opt/bh-bids/bin/bh-bids"]
