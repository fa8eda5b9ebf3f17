# The project's image: one virtual environment on a base image with Python, run by a user without rights.
# What each argument is for, sizes, and how to list what is in it: docs/image.md.
#
#   BASE         an image of Debian or Ubuntu. Python >= 3.11 with venv is installed from its packages where it has none,
#                as in the images of nvidia/cuda. Pinned by digest: the same Dockerfile builds the same base.
#   FABRIC       "efa" adds AWS' libfabric and its plugin for NCCL; EFA_VERSION, EFA_SHA256 name the installer.
#   CPU_ONLY     "yes" takes CUDA out of PyTorch: for machines without GPUs.
#   PIP_OPTIONS  more options for pip, such as --extra-index-url or --find-links.
#   WITHOUT      requirements to leave out, by name: for an image that only has to show that it is put together well.
#
# The result runs with a read-only root file system: it writes to /tmp (mount an emptyDir) and where a config says.
ARG BASE=docker.io/library/python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

# hadolint ignore=DL3006
FROM ${BASE} AS base
# Versions of packages are the base's: Debian and Ubuntu serve only the newest of a release.
# hadolint ignore=DL3008
RUN if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then \
        apt-get update \
     && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
            ca-certificates python3 python3-venv \
     && rm -rf /var/lib/apt/lists/*; \
    fi \
 && python3 -c 'import sys; sys.version_info >= (3, 11) or sys.exit("BASE: Python 3.11 or newer is needed")'


FROM base AS build
ARG WITHOUT=""
ARG PIP_OPTIONS=""
ARG CPU_ONLY=""
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_CONSTRAINT=/src/constraints.txt
RUN python3 -m venv /opt/cclm
WORKDIR /src
# The requirements before the code: a change of the code alone does not install PyTorch again.
COPY pyproject.toml constraints.txt ./
# PIP_OPTIONS are several words.
# hadolint ignore=SC2086
RUN /opt/cclm/bin/python -c "import re, sys, tomllib; \
        left_out = set(sys.argv[1].split()); \
        project = tomllib.load(open('pyproject.toml', 'rb')); \
        wanted = [*project['build-system']['requires'], *project['project']['dependencies']]; \
        print('\n'.join(line for line in wanted if re.match(r'[\w.-]+', line)[0] not in left_out))" \
        "${WITHOUT}" > /tmp/requirements.txt \
 && /opt/cclm/bin/pip install ${PIP_OPTIONS} -r /tmp/requirements.txt
COPY k8s/__init__.py k8s/
COPY k8s/image k8s/image
RUN if [ -n "${CPU_ONLY}" ]; then /opt/cclm/bin/python -m k8s.image.without_cuda; fi
COPY . .
RUN /opt/cclm/bin/pip install --no-deps --no-build-isolation .


# libfabric and the plugin, without which NCCL goes over TCP on AWS. The kernel's part is the node's.
FROM base AS fabric
ARG FABRIC=none
ARG EFA_VERSION=1.48.0
ARG EFA_SHA256=""
ARG EFA_URL="https://efa-installer.amazonaws.com/aws-efa-installer-${EFA_VERSION}.tar.gz"
WORKDIR /tmp/efa
# The installer installs packages itself, from the archive and from the base's lists. It names the plugin
# libnccl-net-ofi.so, and NCCL looks for libnccl-net.so unless it is told another name. A link beside the plugin would not
# be found, since ldconfig knows a library by the name that is written in it. /usr/lib is searched by file names, too.
# hadolint ignore=DL3008
RUN if [ "${FABRIC}" = efa ]; then \
        if [ -z "${EFA_SHA256}" ]; then \
            echo "FABRIC=efa: give EFA_SHA256, the sha256 of ${EFA_URL}" >&2; exit 2; \
        fi \
     && apt-get update \
     && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends ca-certificates curl \
     && curl --fail --silent --show-error --location --output efa.tar.gz "${EFA_URL}" \
     && echo "${EFA_SHA256}  efa.tar.gz" > efa.sum \
     && sha256sum --check --quiet efa.sum \
     && tar --extract --file efa.tar.gz --strip-components 1 \
     && ./efa_installer.sh -y --skip-kmod --skip-limit-conf --no-verify \
     && plugin=$(find /opt/amazon -name libnccl-net-ofi.so -print -quit) \
     && if [ -z "${plugin}" ]; then \
            echo "EFA installer ${EFA_VERSION}: no libnccl-net-ofi.so below /opt/amazon" >&2; exit 1; \
        fi \
     && ln -sf "${plugin}" /usr/lib/libnccl-net.so \
     && dirname "${plugin}" > /etc/ld.so.conf.d/000-nccl.conf \
     && echo /opt/amazon/efa/lib > /etc/ld.so.conf.d/000-efa.conf \
     && ldconfig \
     && rm -rf /tmp/efa/* /var/lib/apt/lists/*; \
    elif [ "${FABRIC}" != none ]; then \
        echo "FABRIC is none or efa, not ${FABRIC}" >&2; exit 2; \
    fi


FROM fabric
ARG BASE
ARG VERSION=0.1.0
ARG REVISION=""
ARG CREATED=""
LABEL org.opencontainers.image.title="cclm" \
      org.opencontainers.image.description="Cross-View Language Modeling: pre-training and cross-lingual evaluation" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
# Nothing of the image may be written at run time. Python files were compiled by pip; caches go to /tmp.
# NVIDIA's container toolkit gives a container the parts of the driver that this variable names.
ENV PATH=/opt/cclm/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build /opt/cclm /opt/cclm
COPY configs /opt/cclm/configs
# A number, so that Kubernetes can see that it is not root (runAsNonRoot).
USER 10001:10001
WORKDIR /opt/cclm
# No ENTRYPOINT: TorchX's Docker scheduler gives a whole command, and would have it run behind the entry point.
CMD ["cclm", "--help"]
