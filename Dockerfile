# One binary, `lb`: the controller (lb control), a proxy (lb proxy) and the operator's client.
#
#   docker build -t lb .
#   docker run --rm lb --help
#
# The processes drain on SIGTERM, need no root and write only to /var/lib/lb, so a container may be
# as restricted as those of docker-compose.yml are.

# Another profile of the workspace's is for tests of the image: `plain` is built soonest.
ARG PROFILE=release

# The workspace with nothing in it but its manifests: changes when the dependencies do.
FROM rust:1-bookworm AS manifests
WORKDIR /src
COPY . .
RUN set -e; for manifest in */Cargo.toml; do \
        crate=/manifests/${manifest%/*}; \
        mkdir -p "$crate/src"; \
        cp "$manifest" "$crate/"; \
        for stub in src/main.rs build.rs; do \
            if [ -f "${manifest%/*}/$stub" ]; then echo 'fn main() {}' > "$crate/$stub"; fi; \
        done; \
        if [ ! -f "$crate/src/main.rs" ] || [ -f "${manifest%/*}/src/lib.rs" ]; then \
            touch "$crate/src/lib.rs"; \
        fi; \
    done; \
    cp Cargo.toml Cargo.lock /manifests/

FROM rust:1-bookworm AS builder
ARG PROFILE
WORKDIR /src
# The dependencies, in a layer that changes of the sources leave as it is.
COPY --from=manifests /manifests .
RUN cargo build --profile "$PROFILE" --locked -p lb-cli
# Cargo goes by times, and those of the sources may lie before that build.
COPY . .
RUN find . -path ./target -prune -o -type f -exec touch {} + && \
    cargo build --profile "$PROFILE" --locked -p lb-cli

FROM debian:bookworm-slim
ARG PROFILE
RUN useradd --system --uid 10001 --user-group --home-dir /var/lib/lb --shell /usr/sbin/nologin lb && \
    install -d -o lb -g lb -m 0750 /var/lib/lb
COPY --from=builder "/src/target/${PROFILE}/lb" /usr/local/bin/lb
# Whom a controller believes that it is a CA which it orders certificates from.
COPY --from=builder /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# By number, so that whoever requires it can see that it is not root.
USER 10001:10001
WORKDIR /var/lib/lb
STOPSIGNAL SIGTERM
ENTRYPOINT ["lb"]
CMD ["--help"]
