# The service for a configured PostgreSQL: no embedded one inside.
#   docker build -f docker/service.Dockerfile -t tillsync-service .
FROM python:3.12-slim-trixie AS build
WORKDIR /src
COPY requirements/runtime-service.txt requirements/
RUN python -m venv /opt/tillsync \
    && /opt/tillsync/bin/pip install --no-cache-dir --require-hashes -r requirements/runtime-service.txt
COPY requirements/dev.txt requirements/
COPY protos protos
COPY service service
COPY migrations migrations
# The build backend comes by hash too; it stays in this stage.
RUN python -m venv /build \
    && /build/bin/pip install --no-cache-dir --require-hashes -r requirements/dev.txt \
    && /build/bin/pip wheel --no-build-isolation --no-deps -w /wheels ./protos ./service \
    && /opt/tillsync/bin/pip install --no-cache-dir --no-deps /wheels/*.whl

FROM python:3.12-slim-trixie
# A number, so that files of a host or a volume can be given to it.
RUN useradd --system --no-create-home --uid 10001 tillsync \
    && install -d -o tillsync -m 700 /etc/tillsync
COPY --from=build /opt/tillsync /opt/tillsync
USER 10001
ENV PATH=/opt/tillsync/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TILLSYNC_LISTEN=0.0.0.0:7070 \
    TILLSYNC_HTTP_LISTEN=0.0.0.0:7071
# gRPC; health and metrics in HTTP
EXPOSE 7070 7071
# Only whether it lives: a database that is away heals without a restart.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["tillsync-service", "health", "liveness", "--timeout", "4"]
ENTRYPOINT ["tillsync-service"]
CMD ["serve"]
