//! The dependencies whose behaviour beyond their documented interface is relied upon: pinned to one version, whose source
//! has been read. Another version may call in another order without breaking any promise of its own.

use std::fs;
use std::path::Path;

/// Name, version, and what relies on it.
const PINNED: [(&str, &str, &[&str]); 3] = [
    (
        "tokio-postgres",
        "0.7.18",
        &[
            "connect.rs: connects the socket first, calls `make_tls_connect` once it is connected, and with direct \
             negotiation hands the socket to `TlsConnect::connect` before a byte is read or written \
             (src/pool/transport/connector.rs drops that socket, src/pool/transport/placeholder.rs closes the listener)",
            "connect_tls.rs: asks for a host's name and passes it on without looking at it (src/pool/transport/connector.rs)",
            "connection.rs: reports the end of the stream, or an error that belongs to no request, before it looks at the \
             reply it has just read, and flushes in every poll (src/pool/transport/stream.rs holds both back)",
            "connection.rs: hands a last error to the oldest request without a reply (src/pool/transport/connection_state.rs, `final_error`)",
            "statement.rs: closes a dropped statement by a Close and a Sync of their own, ahead of the next \
             request (src/pool/transport/protocol/mod.rs counts replies so)",
            "query.rs: looks types up with statements of its own, after the statement has run where it was sent with its \
             types (src/pool/session/statement_cache.rs, `may_look_up_types`)",
        ],
    ),
    (
        "postgres",
        "0.19.14",
        &[
            "connection.rs: runs the connection on the caller's thread, in a runtime with one thread (relaxed \
             atomics are enough for src/pool/transport/connection_state.rs, and src/pool/transport/socket.rs waits in the read)",
            "client.rs: dropping a client says goodbye and waits for what is outstanding (src/pool/session/mod.rs bounds that)",
            "config.rs: unwraps where no runtime can be built (src/pool/store/mod.rs catches it)",
        ],
    ),
    (
        "r2d2",
        "0.8.10",
        &[
            "lib.rs: with `min_idle` = `max_size` asks for a connection for every one that is lacking, as soon as it is \
             (src/pool/store/mod.rs parks connectors by it)",
            "lib.rs: stores a new connection right after `connect` has returned it (src/pool/acquire.rs, `take`)",
            "lib.rs: calls `has_broken` and then `on_release` when a guard with a broken connection is dropped, and lends \
             last in, first out (src/pool/store/mod.rs, src/pool/maintenance/mod.rs)",
        ],
    ),
];

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// Every version of a package in `Cargo.lock`.
fn locked<'a>(lock: &'a str, name: &str) -> Vec<&'a str> {
    let head = format!("name = \"{name}\"\nversion = \"");
    lock.split("[[package]]\n").filter_map(|entry| entry.strip_prefix(&head)?.split('"').next()).collect()
}

#[test]
fn what_is_relied_upon_beyond_its_interface_is_the_version_that_was_read() {
    let (lock, manifest) = (read("Cargo.lock"), read("Cargo.toml"));
    for (name, version, reasons) in PINNED {
        let read_again = format!(
            "{name} is relied upon as it is in {version}. Read its source again for the following, run the whole suite and \
             `make chaos`, and then change the version here and in Cargo.toml:\n- {}",
            reasons.join("\n- ")
        );
        assert_eq!(locked(&lock, name), [version], "{read_again}");
        let line = manifest.lines().find(|line| line.starts_with(&format!("{name} = "))).unwrap();
        assert!(line.contains(&format!("\"={version}\"")), "Cargo.toml: {line}\n{read_again}");
        for file in reasons.iter().flat_map(|reason| reason.split(['(', ')', ' ', ','])) {
            let is_ours = file.starts_with("src/");
            assert!(!is_ours || Path::new(env!("CARGO_MANIFEST_DIR")).join(file).exists(), "{file}");
        }
    }
}
