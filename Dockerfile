# Both stages use the same base image, so that the environment made in one works in the other.
ARG BASE=python:3.11.13-slim-bookworm

FROM ${BASE} AS build
# cpu, or cuda for the default build of torch, which brings the libraries of one CUDA version.
ARG VARIANT=cpu
# pip's own settings, for this stage alone.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /src
RUN python3 -m venv /opt/bh-bids
# The dependencies come first: a change of the code alone does not fetch them again.
COPY constraints.txt requirements-image.txt ./
# Only files whose hashes were kept; but torch, of which every index has a build of its own.
# Where no index has the CPU build of torch, the default build of the same version is taken.
RUN /opt/bh-bids/bin/pip install --no-deps --require-hashes -r requirements-image.txt \
 && if [[ "${VARIANT}" == cuda ]]; then sed -i 's/+cpu$//' constraints.txt; fi \
 && { /opt/bh-bids/bin/pip install -c constraints.txt torch \
      || { sed -i 's/+cpu$//' constraints.txt \
           && /opt/bh-bids/bin/pip install -c constraints.txt torch; }; }
COPY pyproject.toml setup.cfg README.md LICENSE ./
COPY workflows workflows
COPY bh_bids bh_bids
# What only developers of the dependencies use goes: their tests, torch's headers, pip itself.
RUN /opt/bh-bids/bin/pip wheel --no-deps --wheel-dir /wheels . \
 && /opt/bh-bids/bin/pip install --no-deps /wheels/*.whl \
 && /opt/bh-bids/bin/pip check \
 && TEMPLATEFLOW_HOME=/opt/bh-bids/templateflow MPLCONFIGDIR=/opt/bh-bids/matplotlib \
    /opt/bh-bids/bin/python -c 'import templateflow, matplotlib.font_manager' \
 && /opt/bh-bids/bin/pip uninstall --yes setuptools pip \
 && cd /opt/bh-bids/lib/python3*/site-packages \
 && find . -type d -name tests -prune -exec rm -r {} + \
 && rm -rf torch/test torch/include torch/bin/test_* torch/bin/protoc* \
 && /opt/bh-bids/bin/bh-bids --version \
 && /opt/bh-bids/bin/bh-model verify default
# Any other user may run it too; nothing is read from or written to a home folder.
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin bh-bids

# Nothing runs in this stage, so that nothing of the build can get into it.
FROM ${BASE}
ARG BASE
ARG VERSION=0.4.0
ARG REVISION=""
LABEL org.opencontainers.image.title="bh-bids" \
      org.opencontainers.image.description="BIDS App that harmonizes T1-weighted MR images blindly" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.authors="The bh-bids developers"
COPY --from=build /opt/bh-bids /opt/bh-bids
COPY --from=build /etc/passwd /etc/group /etc/
ENV PATH="/opt/bh-bids/bin:${PATH}" \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONNOUSERSITE=1 \
    PYTHONUNBUFFERED=1 \
    TEMPLATEFLOW_AUTOUPDATE=0 \
    TEMPLATEFLOW_HOME=/opt/bh-bids/templateflow
USER bh-bids
WORKDIR /tmp
ENTRYPOINT ["/opt/bh-bids/bin/bh-bids"]
