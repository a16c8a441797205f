# Two images: the server, which is the last stage and so the default, and the exporter
# (--target export). `docker compose` builds both; each needs the whole checkout as its context.

# The Python and the Debian that CI runs the tests on.
FROM python:3.11-slim-bookworm AS base
# Log lines come out as they are written.
ENV PYTHONUNBUFFERED=1


FROM base AS export-wheels
# The default brings CUDA, gigabytes that an export never uses. Any requirement of pip's will do:
# "torch @ https://..." takes a CPU wheel from where you get yours.
ARG TORCH=torch==2.13.0
WORKDIR /source
COPY constraints.txt ./
COPY export ./export
RUN pip wheel --no-cache-dir --wheel-dir /wheels --constraint constraints.txt "${TORCH}" ./export


FROM base AS export
LABEL org.opencontainers.image.title="clipsearch-export" \
      org.opencontainers.image.description="Exports a CLIP checkpoint to the model folder that clipsearch and Triton read" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# Whoever owns the model folder runs it (compose's `user`), so any user may write to the cache, and
# has a home.
RUN --mount=type=bind,from=export-wheels,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index /wheels/*.whl \
    && install --directory --mode 1777 /cache
ENV HF_HOME=/cache HOME=/tmp USER=clipsearch
USER 10001:10001
# One export, then it ends.
HEALTHCHECK NONE
ENTRYPOINT ["clipsearch-export", "--out", "/models"]


FROM base AS server-wheels
WORKDIR /source
COPY constraints.txt ./
COPY client ./client
COPY server ./server
RUN pip wheel --no-cache-dir --wheel-dir /wheels --constraint constraints.txt ./client "./server[otel]"


FROM base AS server
LABEL org.opencontainers.image.title="clipsearch-server" \
      org.opencontainers.image.description="Find images by describing them: the gRPC server" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# /data is for the embedded index; with Qdrant the server writes nothing.
RUN --mount=type=bind,from=server-wheels,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index /wheels/*.whl \
    && install --directory --owner 10001 --group 10001 /data
# All interfaces of the container; what is published of them is the host's affair.
ENV CLIPSEARCH_ADDRESS=0.0.0.0:50051 CLIPSEARCH_DATA_DIR=/data
EXPOSE 50051
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-m", "clipsearch_server.check", "127.0.0.1:50051"]
ENTRYPOINT ["clipsearch-server"]
