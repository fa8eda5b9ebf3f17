# The project's image: one virtual environment on a base image with Python, run by a user without rights.
#
#   BASE     an image with Python >= 3.11, its venv module and pip. python:3.11-slim-bookworm is one; the tests build
#            theirs from Debian's packages.
#   WITHOUT  requirements to leave out, by name: for an image that only has to show that it is put together well
#            ("torch torchvision" saves 5 GB). Empty for a real one.
#   PIP_OPTIONS  more options for pip, such as --extra-index-url or --find-links.
#
# The result runs with a read-only root file system: it writes to /tmp (mount an emptyDir) and where a config says.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG WITHOUT=""
ARG PIP_OPTIONS=""
RUN python3 -m venv /opt/cclm
WORKDIR /src
# The requirements before the code: a change of the code alone does not install PyTorch again.
COPY pyproject.toml ./
RUN /opt/cclm/bin/python -c "import re, sys, tomllib; \
    left_out = set(sys.argv[1].split()); \
    wanted = tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies']; \
    print('\n'.join(line for line in wanted if re.match(r'[\w.-]+', line)[0] not in left_out))" \
    "${WITHOUT}" > /tmp/requirements.txt \
 && /opt/cclm/bin/pip install --no-cache-dir --disable-pip-version-check ${PIP_OPTIONS} -r /tmp/requirements.txt \
 && /opt/cclm/bin/pip install --no-cache-dir --disable-pip-version-check ${PIP_OPTIONS} "setuptools>=77"
COPY . .
RUN /opt/cclm/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation .

FROM ${BASE}
COPY --from=build /opt/cclm /opt/cclm
COPY configs /opt/cclm/configs
# Nothing below may be written at run time, so compiled Python files and caches go to /tmp.
ENV PATH=/opt/cclm/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONPYCACHEPREFIX=/tmp/pycache \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/cache
# A number, so that Kubernetes can see that it is not root (runAsNonRoot).
USER 10001:10001
WORKDIR /opt/cclm
# No ENTRYPOINT: TorchX's Docker scheduler gives a whole command, and would have it run behind the entry point.
CMD ["cclm", "--help"]
