# The agent: its state folder is a volume, and a sale in it must outlive the container.
#   docker build -f docker/agent.Dockerfile -t tillsync-agent .
FROM python:3.12-slim-trixie AS build
WORKDIR /src
COPY requirements/runtime-agent.txt requirements/
RUN python -m venv /opt/tillsync \
    && /opt/tillsync/bin/pip install --no-cache-dir --require-hashes -r requirements/runtime-agent.txt
COPY requirements/dev.txt requirements/
COPY protos protos
COPY client client
# The build backend comes by hash too; it stays in this stage.
RUN python -m venv /build \
    && /build/bin/pip install --no-cache-dir --require-hashes -r requirements/dev.txt \
    && /build/bin/pip wheel --no-build-isolation --no-deps -w /wheels ./protos ./client \
    && /opt/tillsync/bin/pip install --no-cache-dir --no-deps /wheels/*.whl

FROM python:3.12-slim-trixie
RUN useradd --system --no-create-home --uid 10001 tillsync \
    && install -d -o tillsync -m 700 /var/lib/tillsync-agent
COPY --from=build /opt/tillsync /opt/tillsync
USER 10001
ENV PATH=/opt/tillsync/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TILLSYNC_AGENT_STATE_DIR=/var/lib/tillsync-agent
VOLUME /var/lib/tillsync-agent
# Unhealthy means that a person should look (status says at what): a restart helps with nothing that
# it names. The agent opens no port; its gateway serves its own machine only.
HEALTHCHECK --interval=60s --timeout=10s --start-period=60s --retries=3 \
    CMD tillsync-agent status > /dev/null || exit 1
ENTRYPOINT ["tillsync-agent"]
CMD ["run"]
