# One image for every process of the platform; compose.yaml says which one a container runs.
FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target \
    cargo build --release --locked --bins \
    && mkdir /out \
    && cp target/release/auth target/release/authz target/release/audit target/release/gateway target/release/identity target/release/jobs target/release/trunkline /out/

FROM debian:bookworm-slim
# openssl makes the broker's certificates, ca-certificates vouch for mail servers; the folders are where compose.yaml mounts its volumes, which take their owner.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates openssl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home trunkline \
    && install --directory --owner=trunkline --mode=755 /broker /mail /secrets /superuser /tls
COPY --from=build /out/ /usr/local/bin/
USER trunkline
CMD ["trunkline", "--help"]
