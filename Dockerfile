# syntax=docker/dockerfile:1
ARG PYTHON_VERSION=3.13

# --- builder: has pip; add a compiler here if a package has no wheel for your platform ------------
FROM python:${PYTHON_VERSION}-slim AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# The environment has no pip: only the builder needs it.
RUN python -m venv --without-pip /opt/nexus-auth

# Dependencies first: this layer is built again only when pyproject.toml changes.
# Extras, separated by spaces; for traces: --build-arg EXTRAS="chain redis otel".
ARG EXTRAS="chain redis"
COPY pyproject.toml ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
    extras = [p['optional-dependencies'][name] for name in '${EXTRAS}'.split()]; \
    print(*p['dependencies'], *sum(extras, []), sep='\n')" > requirements.txt \
    && pip --python /opt/nexus-auth/bin/python install --requirement requirements.txt

COPY README.md LICENSE ./
COPY src ./src
RUN pip wheel --no-deps --wheel-dir /dist . \
    && pip --python /opt/nexus-auth/bin/python install --no-deps /dist/*.whl \
    # Compiled now, because the final image runs read-only.
    && python -m compileall -q /opt/nexus-auth/lib

# --- final: the interpreter, the environment, and a user that owns only /app -----------------------
FROM python:${PYTHON_VERSION}-slim

RUN groupadd --gid 1000 nexus \
    && useradd --uid 1000 --gid nexus --no-create-home --home-dir /app --shell /usr/sbin/nologin nexus \
    && install --directory --owner=nexus --group=nexus /app /app/certs /app/data \
    # The path of the program in the original's image: deployments may start it by this path.
    && ln -s /opt/nexus-auth/bin/nexus-auth /usr/bin/nexus-auth \
    # Removes the base image's own pip: no program here can install packages.
    && rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/ensurepip \
        /usr/local/lib/python3*/site-packages/pip*

COPY --from=builder /opt/nexus-auth /opt/nexus-auth
ENV PATH=/opt/nexus-auth/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

WORKDIR /app
VOLUME /app/certs
# A number, so that Kubernetes can see that this user is not root (runAsNonRoot). Nor does it start as
# root to give itself what is mounted at /app/certs: `generate` says what to do where it must be done.
USER 1000:1000
EXPOSE 8080

# The admin listener answers inside the container only. The check uses Python: the image has no curl.
# If NEXUS_AUTH_ADMIN_ADDR names another port, or "off", give the container a check of its own.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 8081, timeout=2); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]

ENTRYPOINT ["nexus-auth"]
CMD ["run"]
