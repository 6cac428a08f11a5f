# The agent: its state folder is a volume, and a sale in it must outlive the container.
#   docker build -f docker/agent.Dockerfile -t tillsync-agent .
FROM python:3.12-slim AS build
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

FROM python:3.12-slim
RUN useradd --system --no-create-home tillsync \
    && install -d -o tillsync -m 700 /var/lib/tillsync-agent
COPY --from=build /opt/tillsync /opt/tillsync
USER tillsync
ENV PATH=/opt/tillsync/bin:$PATH TILLSYNC_AGENT_STATE_DIR=/var/lib/tillsync-agent
VOLUME /var/lib/tillsync-agent
ENTRYPOINT ["tillsync-agent"]
CMD ["run"]
