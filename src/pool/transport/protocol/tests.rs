//! Messages, cut at every position.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use std::sync::Arc;
use std::sync::atomic::Ordering;

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind];
    message.extend((body.len() as u32 + 4).to_be_bytes());
    message.extend(body);
    message
}

#[test]
fn the_state_is_read_however_the_bytes_are_cut() {
    let mut reply = message(b'K', b"\0\0\0\x07key!");
    for (name, value) in
        [("standard_conforming_strings", "on"), ("client_encoding", "UTF8"), ("server_encoding", "LATIN1")]
    {
        reply.extend(message(b'S', format!("{name}\0{value}\0").as_bytes()));
    }
    reply.extend(message(b'2', b""));
    reply.extend(message(b'D', b"Z\0\0\0\x05I and other bytes that look like a message"));
    reply.extend(message(b'C', b"CREATE FUNCTION\0"));
    reply.extend(message(b'C', b"SELECT 1\0"));
    reply.extend(message(b'Z', b"T"));
    for chunk in 1..=reply.len() {
        let conn = ConnectionState::new();
        let epoch = Arc::default();
        conn.set_pool("".into(), Arc::clone(&epoch));
        let mut backend = BackendMessages::default();
        for bytes in reply.chunks(chunk) {
            backend.observe(bytes, &conn);
        }
        assert_eq!(conn.status(), Some(b'T'), "chunks of {chunk}");
        assert_eq!(&*conn.cancel_key(), b"\0\0\0\x07key!", "chunks of {chunk}");
        assert!(conn.reads_as_written("a") && !conn.reads_as_written("ä"), "chunks of {chunk}");
        // The catalogue has changed, for others from the end of the transaction on.
        for (status, changes) in [(b"T", 0), (b"I", 1), (b"I", 1)] {
            backend.observe(&message(b'Z', status), &conn);
            assert_eq!(epoch.load(Ordering::Relaxed), changes, "chunks of {chunk}");
        }
    }
}

#[test]
fn the_status_is_unknown_until_every_request_has_its_reply() {
    let (conn, mut backend, mut frontend) =
        (ConnectionState::new(), BackendMessages::default(), FrontendMessages::default());
    backend.observe(&message(b'Z', b"I"), &conn);
    let sent =
        [message(b'C', b"Ss1\0"), message(b'S', b""), message(b'B', b"x"), message(b'S', b"")].concat();
    for bytes in sent.chunks(3) {
        frontend.observe(bytes, &conn);
        conn.add_written(bytes.len());
    }
    backend.observe(&message(b'Z', b"I"), &conn);
    assert_eq!(conn.status(), None, "the query's own reply is outstanding");
    backend.observe(&message(b'Z', b"T"), &conn);
    assert_eq!(conn.status(), Some(b'T'));

    let copy = [message(b'S', b""), message(b'd', b"1\n"), message(b'c', b""), message(b'S', b"")].concat();
    frontend.observe(&copy, &conn);
    conn.add_written(copy.len());
    backend.observe(&message(b'Z', b"T"), &conn);
    assert_eq!(conn.status(), Some(b'T'), "the first Sync of a COPY has no reply");
}

#[test]
fn an_error_during_a_copy_makes_the_number_of_replies_unknown() {
    for (messages, is_counted) in [
        (vec![message(b'E', b"\0"), message(b'Z', b"E")], true),
        (vec![message(b'G', b"\0\0\0"), message(b'C', b"COPY 1\0"), message(b'Z', b"T")], true),
        (vec![message(b'G', b"\0\0\0"), message(b'E', b"\0"), message(b'Z', b"E")], false),
    ] {
        let (conn, mut backend) = (ConnectionState::new(), BackendMessages::default());
        backend.observe(&messages.concat(), &conn);
        assert_eq!(conn.has_lost_count(), !is_counted, "{messages:?}");
    }
}

#[test]
fn only_a_complete_error_is_parsed() {
    let error = message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mgoing down\0\0");
    let parsed = parse_error(&error).unwrap();
    assert_eq!(
        (parsed.severity, parsed.code, parsed.message),
        ("FATAL".into(), "57P01".into(), "going down".into())
    );
    for cut in 0..error.len() {
        assert_eq!(parse_error(&error[..cut]), None, "{cut}");
    }
    assert_eq!(parse_error(&message(b'N', b"SWARNING\0Mno error\0\0")), None);
    assert_eq!(parse_error(&[b'E', 0, 0, 0, 0]), None, "a length counts its own four bytes");
}

#[test]
fn a_completely_written_request_awaits_its_reply_and_a_close_does_not() {
    let sync = message(b'S', b"");
    for (sent, is_request) in [
        ([message(b'C', b"Ss1\0"), sync.clone()].concat(), false),
        ([message(b'B', b"x"), message(b'E', b"\0"), sync.clone()].concat(), true),
        ([message(b'C', b"Ss1\0"), sync.clone(), message(b'B', b"x"), sync].concat(), true),
        (message(b'Q', b"BEGIN\0"), true),
    ] {
        for cut in 1..sent.len() {
            let (conn, mut frontend) = (ConnectionState::new(), FrontendMessages::default());
            frontend.observe(&sent[..cut], &conn);
            assert!(!frontend.take_request(), "{cut} of {}", sent.len());
            frontend.observe(&sent[cut..], &conn);
            assert_eq!((frontend.take_request(), frontend.take_request()), (is_request, false));
        }
    }
}

#[test]
fn an_error_is_held_until_its_reply_is_complete_and_earlier_bytes_are_not() {
    let (conn, mut backend) = (ConnectionState::new(), BackendMessages::default());
    let reply = [message(b'C', b"INSERT 0 1\0"), message(b'Z', b"I")].concat();
    let error = message(b'E', b"SFATAL\0C57P01\0\0");
    assert_eq!(backend.observe(&[reply.clone(), error.clone()].concat(), &conn), error.len());
    assert_eq!(backend.observe(&message(b'Z', b"I"), &conn), 0);
    for cut in 1..error.len() {
        // An incomplete header may be delivered: the driver does not process it.
        let first = backend.observe(&error[..cut], &conn);
        assert!(first == cut || (cut < 5 && first == 0), "{first} of {cut}");
        assert_eq!(backend.observe(&error[cut..], &conn), error.len());
        assert_eq!(backend.observe(&reply, &conn), 0);
    }
}

/// Messages that a server may send, the last one cut short.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![Just(b'E'), Just(b'G'), Just(b'D'), any::<u8>()];
    let ready = select(b"ITE".to_vec()).prop_map(|status| message(b'Z', &[status]));
    let other = (kind, vec(any::<u8>(), 0..12))
        .prop_filter("a status is one byte", |(kind, _)| *kind != b'Z')
        .prop_map(|(kind, body)| message(kind, &body));
    let whole = vec(prop_oneof![ready, other.clone()], 0..12).prop_map(|all| all.concat());
    let cut = (other, 0..9_usize).prop_map(|(all, cut)| all[..cut.min(all.len())].to_vec());
    (whole, cut).prop_map(|(whole, cut)| [whole, cut].concat())
}

proptest! {
    #[test]
    fn messages_mean_the_same_however_they_are_cut(
        bytes in messages(),
        cuts in vec(1..9_usize, 1..20),
    ) {
        let (whole, in_parts) = (ConnectionState::new(), ConnectionState::new());
        let held = BackendMessages::default().observe(&bytes, &whole);
        let (mut backend, mut rest, mut last) = (BackendMessages::default(), bytes.as_slice(), 0);
        for cut in cuts.iter().cycle() {
            let (part, others) = rest.split_at(rest.len().min(*cut));
            if part.is_empty() {
                break;
            }
            (last, rest) = (backend.observe(part, &in_parts), others);
        }
        prop_assert_eq!(in_parts.status(), whole.status());
        prop_assert_eq!(in_parts.has_lost_count(), whole.has_lost_count());
        prop_assert_eq!(last, held);
    }

    #[test]
    fn no_bytes_cause_a_panic(bytes in vec(any::<u8>(), 0..60)) {
        let conn = ConnectionState::new();
        BackendMessages::default().observe(&bytes, &conn);
        FrontendMessages::default().observe(&bytes, &conn);
        let _ = parse_error(&bytes);
    }
}
