# What people do here. Each recipe is a command that can be typed as well.

# Everything that must pass before a commit lands.
ci:
    bash .ci/run

# The tests.
test:
    cargo test --workspace

# Watch a machine boot: aws, azure, google, static or standalone.
boot provider="google":
    cargo run --bin simulator -- boot {{provider}}

# A simulated Taskcluster that stays, for anything to talk to.
serve:
    cargo run --bin simulator -- serve

# What it costs, measured: boots, relay, idle machines, archives, herds (words choose: just bench relay).
bench *words:
    cargo bench --bench figures -- {{words}}

# Ten thousand machines through outages of the service.
herd *options:
    cargo run --release --package simulator --bin simulator -- herd {{options}}

# What must not grow, counted.
guards:
    bash .ci/guards

# Kill a boot at many random instants, and boot again.
kills n="200":
    KILLS={{n}} cargo test --test all -- --nocapture a_kill_at_any_instant

# Live this many lives of machines, with everything going wrong (CHAOS_SEED=n lives one again).
chaos n="200":
    CHAOS={{n}} cargo test --test chaos -- --nocapture

# Relay this many lines.
lines n="10000000":
    LINES={{n}} cargo test --release --test all -- a_flood_of_lines

# Fuzz one of: protocol_line, runner_config, registration_answer, cache_file, zip (needs cargo-fuzz and a nightly compiler).
fuzz target:
    cargo fuzz run {{target}}
