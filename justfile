# The project's chores. `just` alone lists them.

default:
    @just --list

# Runs one broker on this machine, without Kubernetes.
up *ARGS:
    cargo run --release -- up -f manifests/samples/thermometer.yaml {{ARGS}}

# Everything: lints, tests, the end-to-end test on a real Kubernetes node. `just test it` runs one layer.
test *LAYER:
    tests/run {{LAYER}}

# Fuzzes one target for ten minutes; docs/fuzzing.md lists them. Needs cargo-fuzz and a nightly toolchain.
fuzz TARGET SECONDS="600":
    mkdir -p target/fuzz-corpus/{{TARGET}}
    cargo +nightly fuzz run --fuzz-dir tests/fuzz --sanitizer none {{TARGET}} \
        target/fuzz-corpus/{{TARGET}} tests/fuzz/corpus/{{TARGET}} \
        -- -max_total_time={{SECONDS}} -rss_limit_mb=2048 -timeout=20

fmt:
    cargo fmt

lint:
    cargo fmt --check
    cargo clippy --all-targets -- -D warnings

# Licences, sources and known vulnerabilities of the dependencies; needs cargo-deny.
deny:
    cargo deny check

# The custom resource definitions, from the types; with the chart's copy and what is rendered from it.
crds:
    cargo run --quiet --bin mqtt-operator -- crds mqttbrokers > crds/mqttbrokers.yaml
    cargo run --quiet --bin mqtt-operator -- crds mqttusers > crds/mqttusers.yaml
    cp crds/*.yaml charts/mqtt-operator/files/crds/
    just install-yaml

# The manifest for people without Helm, from the chart.
install-yaml:
    charts/install-yaml > manifests/install.yaml

# The image, with Docker.
image TAG="mqtt-operator:dev":
    docker build -t {{TAG}} .
