//! Messages, cut at every position.

use super::reply::{Copy, Malformed, Reply, ReplyReader, Unasked, columns};
use super::*;
use crate::rows::Values;
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
        assert_eq!(conn.has_lost_sync(), !is_counted, "{messages:?}");
    }
}

/// Reads `bytes`, which arrive in parts of these sizes.
fn read_in_parts(
    bytes: &[u8],
    sizes: &[usize],
    conn: &ConnectionState,
) -> (Result<Option<usize>, Malformed>, ReplyReader) {
    let mut reader = ReplyReader::default();
    let mut end = 0;
    for size in sizes.iter().cycle() {
        end = bytes.len().min(end + size);
        match reader.read(&bytes[..end], conn, |_| ()) {
            Ok(None) if end < bytes.len() => {}
            outcome => return (outcome, reader),
        }
    }
    unreachable!("sizes are not empty")
}

#[test]
fn a_reply_ends_with_its_status_and_keeps_its_rows() {
    let row = |text: &[u8]| {
        let length = (text.len() as i32).to_be_bytes();
        message(b'D', &[&[0, 2][..], &length, text, &(-1_i32).to_be_bytes()].concat())
    };
    let reply = [
        message(b'1', b""),
        message(b'2', b""),
        message(b'S', b"client_encoding\0UTF8\0"),
        row(b"first"),
        message(b'A', b"\0\0\0\x01channel\0payload\0"),
        row(b"second"),
        message(b'C', b"SELECT 2\0"),
        message(b'Z', b"I"),
    ]
    .concat();
    let next = message(b'E', b"SFATAL\0C57P01\0Mgoing down\0\0");
    for size in 1..=reply.len() {
        let conn = ConnectionState::new();
        conn.add_request();
        let (end, reader) = read_in_parts(&[reply.clone(), next.clone()].concat(), &[size], &conn);
        assert_eq!((end, conn.status()), (Ok(Some(reply.len())), Some(b'I')), "parts of {size}");
        let whole = reader.finish(reply.clone());
        assert!(whole.is_parsed(), "parts of {size}");
        assert_eq!(whole.affected(), 2, "parts of {size}");
        assert_eq!(whole.last_row(), Some(vec![Some("second".to_owned()), None]), "parts of {size}");
        let rows = whole.into_rows(Arc::default());
        let values = rows.bodies().map(|body| Values::new(body).unwrap().next_value());
        assert_eq!(values.collect::<Vec<_>>(), [Some(Some(&b"first"[..])), Some(Some(b"second"))]);
    }
}

#[test]
fn what_is_no_reply_is_refused() {
    for (bytes, text) in [
        (&[b'D', 0, 0, 0, 3][..], "a message 'D' of 3 bytes"),
        (&[b'D', 0xff, 0xff, 0xff, 0xff], "a message 'D' of 4294967295 bytes"),
        (&[b'R', 0, 0, 0, 4], "an unexpected message 'R'"),
        (&[b'Z', 0, 0, 0, 4], "a transaction status of 0 bytes"),
        (&[b'Z', 0, 0, 0, 5, b'X'], "a transaction status of 1 bytes"),
        (&[b'E', 0, 0, 0, 5, 0], "an error without a message"),
    ] {
        let (outcome, _) = read_in_parts(bytes, &[bytes.len()], &ConnectionState::new());
        assert_eq!(outcome.unwrap_err().to_string(), format!("the server's reply is malformed: {text}"));
    }
}

/// The test is that it returns.
fn read_everything(reply: Reply) {
    let _ = (reply.last_row(), reply.parameter_types(), reply.row_description().map(columns));
    for body in reply.into_rows(Arc::default()).bodies() {
        let mut values = Values::new(body);
        while values.as_mut().and_then(Values::next_value).is_some() {}
    }
}

/// Reads the reply to a COPY as it arrives in parts of these sizes, and drops what was read. Returns the outcome, without the
/// place of the end, and the data.
fn copy_in_parts(bytes: &[u8], sizes: &[usize]) -> (Result<bool, Malformed>, Vec<u8>) {
    let conn = ConnectionState::new();
    let (mut reader, mut input, mut rest, mut data) = (ReplyReader::of_copy(), Vec::new(), bytes, Vec::new());
    for size in sizes.iter().cycle() {
        let (part, others) = rest.split_at(rest.len().min(*size));
        input.extend_from_slice(part);
        rest = others;
        let outcome = reader.read(&input, &conn, |message| match message {
            Unasked::CopyData(part) => data.extend_from_slice(part),
            Unasked::Notification(_) | Unasked::CopyIn => {}
        });
        match outcome {
            Ok(None) if !rest.is_empty() => reader.discard_read(&mut input),
            Ok(None) => return (Ok(false), data),
            Ok(Some(end)) => {
                read_everything(reader.finish(input[..end].to_vec()));
                return (Ok(true), data);
            }
            Err(error) => return (Err(error), data),
        }
    }
    unreachable!("sizes are not empty")
}

#[test]
fn the_data_of_a_copy_is_passed_on_and_not_kept() {
    let reply = [
        message(b'1', b""),
        message(b'2', b""),
        message(b'H', b"\0\0\0"),
        message(b'd', b"1\ta\n"),
        message(b'd', b"2\tb\n"),
        message(b'c', b""),
        message(b'C', b"COPY 2\0"),
        message(b'Z', b"T"),
    ]
    .concat();
    let conn = ConnectionState::new();
    let (mut reader, mut input, mut most) = (ReplyReader::of_copy(), Vec::new(), 0);
    for byte in reply {
        input.push(byte);
        most = most.max(input.len());
        match reader.read(&input, &conn, |_| ()).unwrap() {
            None => reader.discard_read(&mut input),
            Some(end) => assert_eq!(end, input.len()),
        }
    }
    // The longest message.
    assert_eq!(most, 5 + b"COPY 2\0".len());
    let reply = reader.finish(input);
    assert_eq!((reply.affected(), reply.copy()), (2, Some(Copy::Out)));
    assert_eq!(conn.status(), Some(b'T'));
}

/// Messages that a server may send, the last one cut short.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![Just(b'E'), Just(b'G'), Just(b'd'), Just(b'D'), any::<u8>()];
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
        BackendMessages::default().observe(&bytes, &whole);
        let (mut backend, mut rest) = (BackendMessages::default(), bytes.as_slice());
        for cut in cuts.iter().cycle() {
            let (part, others) = rest.split_at(rest.len().min(*cut));
            if part.is_empty() {
                break;
            }
            backend.observe(part, &in_parts);
            rest = others;
        }
        prop_assert_eq!(in_parts.status(), whole.status());
        prop_assert_eq!(in_parts.has_lost_sync(), whole.has_lost_sync());
        prop_assert_eq!(in_parts.is_synchronized(), whole.is_synchronized());
    }

    #[test]
    fn a_reply_means_the_same_however_it_is_cut(bytes in messages(), cuts in vec(1..9_usize, 1..20)) {
        let (whole, in_parts) = (ConnectionState::new(), ConnectionState::new());
        let (expected, reader) = read_in_parts(&bytes, &[bytes.len().max(1)], &whole);
        let (outcome, other) = read_in_parts(&bytes, &cuts, &in_parts);
        prop_assert_eq!(&outcome, &expected);
        prop_assert_eq!(in_parts.status(), whole.status());
        prop_assert_eq!(format!("{other:?}"), format!("{reader:?}"));
        if let Ok(Some(end)) = outcome {
            read_everything(other.finish(bytes[..end].to_vec()));
        }
    }

    #[test]
    fn a_copy_means_the_same_however_it_is_cut(bytes in messages(), cuts in vec(1..9_usize, 1..20)) {
        let whole = copy_in_parts(&bytes, &[bytes.len().max(1)]);
        prop_assert_eq!(copy_in_parts(&bytes, &cuts), whole);
    }

    #[test]
    fn no_bytes_cause_a_panic(bytes in vec(any::<u8>(), 0..60)) {
        let conn = ConnectionState::new();
        BackendMessages::default().observe(&bytes, &conn);
        FrontendMessages::default().observe(&bytes, &conn);
        let _ = read_in_parts(&bytes, &[60], &conn);
        let _ = columns(&bytes);
        for kind in *b"DTt" {
            let conn = ConnectionState::new();
            let reply = [message(kind, &bytes), message(b'Z', b"I")].concat();
            let (end, reader) = read_in_parts(&reply, &[60], &conn);
            prop_assert_eq!(end, Ok(Some(reply.len())));
            read_everything(reader.finish(reply));
        }
    }
}
