# The service for a configured PostgreSQL: no embedded one inside.
#   docker build -f docker/service.Dockerfile -t tillsync-service .
FROM python:3.12-slim AS build
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

FROM python:3.12-slim
RUN useradd --system --no-create-home tillsync
COPY --from=build /opt/tillsync /opt/tillsync
USER tillsync
ENV PATH=/opt/tillsync/bin:$PATH TILLSYNC_LISTEN=0.0.0.0:7070
EXPOSE 7070
ENTRYPOINT ["tillsync-service"]
CMD ["serve"]
