# The four programs in one image. `tests/lab/image` packs the same without Docker.
FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY tests tests
COPY benches benches
# The profile for published images: slower to build, faster to run.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/source/target \
    cargo build --locked --profile bench --bins \
    && install -D --strip -t /out target/release/mqtt-operator target/release/mqtt-broker \
        target/release/mqtt-bridge target/release/mqttctl

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 65532 mqtt \
    && useradd --uid 65532 --gid 65532 --no-create-home --home-dir / --shell /usr/sbin/nologin mqtt
COPY --from=build /out/ /usr/local/bin/
# A password hash takes 19 MiB for a moment. Above this size the C library gives memory back at once, instead of keeping it
# for each thread that ever checked a password.
ENV MALLOC_MMAP_THRESHOLD_=1048576
# A number, so that Kubernetes can see that it is not root.
USER 65532
ENTRYPOINT ["/usr/local/bin/mqtt-operator"]
