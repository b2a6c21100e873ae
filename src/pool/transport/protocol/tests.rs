//! Messages, however they are cut.

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
fn the_status_is_read_however_the_bytes_are_cut() {
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
        let mut frames = BackendMessages::default();
        for bytes in reply.chunks(chunk) {
            frames.observe(bytes, &conn);
        }
        assert_eq!(conn.status(), Some(b'T'), "chunks of {chunk}");
        assert_eq!(&*conn.cancel_key(), b"\0\0\0\x07key!", "chunks of {chunk}");
        assert!(conn.reads_as_written("a") && !conn.reads_as_written("ä"), "chunks of {chunk}");
        // The catalogue has changed, for others from the end of the transaction on.
        for (status, changes) in [(b"T", 0), (b"I", 1), (b"I", 1)] {
            frames.observe(&message(b'Z', status), &conn);
            assert_eq!(epoch.load(Ordering::Relaxed), changes, "chunks of {chunk}");
        }
    }
}

#[test]
fn the_status_is_known_again_when_every_request_has_its_reply() {
    let (conn, mut frames, mut requests) =
        (ConnectionState::new(), BackendMessages::default(), FrontendMessages::default());
    frames.observe(&message(b'Z', b"I"), &conn);
    let sent =
        [message(b'C', b"Ss1\0"), message(b'S', b""), message(b'B', b"x"), message(b'S', b"")].concat();
    for bytes in sent.chunks(3) {
        requests.observe(bytes, &conn);
        conn.add_written(bytes.len());
    }
    frames.observe(&message(b'Z', b"I"), &conn);
    assert_eq!(conn.status(), None, "the query's own reply is outstanding");
    frames.observe(&message(b'Z', b"T"), &conn);
    assert_eq!(conn.status(), Some(b'T'));

    let copy = [message(b'S', b""), message(b'd', b"1\n"), message(b'c', b""), message(b'S', b"")].concat();
    requests.observe(&copy, &conn);
    conn.add_written(copy.len());
    frames.observe(&message(b'Z', b"T"), &conn);
    assert_eq!(conn.status(), Some(b'T'), "the first Sync of a COPY has no reply");
}

#[test]
fn a_copy_that_is_refused_after_it_began_leaves_nobody_sure_of_the_replies() {
    for (messages, is_counted) in [
        (vec![message(b'E', b"\0"), message(b'Z', b"E")], true),
        (vec![message(b'G', b"\0\0\0"), message(b'C', b"COPY 1\0"), message(b'Z', b"T")], true),
        (vec![message(b'G', b"\0\0\0"), message(b'E', b"\0"), message(b'Z', b"E")], false),
    ] {
        let (conn, mut frames) = (ConnectionState::new(), BackendMessages::default());
        frames.observe(&messages.concat(), &conn);
        assert_eq!(conn.has_lost_count(), !is_counted, "{messages:?}");
    }
}

#[test]
fn the_words_of_an_error_are_read_only_where_it_is_whole() {
    let error = message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mgoing down\0\0");
    let words = last_words_of(&error).unwrap();
    assert_eq!(
        (words.severity, words.code, words.message),
        ("FATAL".into(), "57P01".into(), "going down".into())
    );
    for cut in 0..error.len() {
        assert_eq!(last_words_of(&error[..cut]), None, "{cut}");
    }
    assert_eq!(last_words_of(&message(b'N', b"SWARNING\0Mno error\0\0")), None);
    assert_eq!(last_words_of(&[b'E', 0, 0, 0, 0]), None, "no length is that short");
}

#[test]
fn a_reply_is_waited_for_when_all_of_a_question_is_sent_and_a_close_is_none() {
    let sync = message(b'S', b"");
    for (sent, is_asked) in [
        ([message(b'C', b"Ss1\0"), sync.clone()].concat(), false),
        ([message(b'B', b"x"), message(b'E', b"\0"), sync.clone()].concat(), true),
        ([message(b'C', b"Ss1\0"), sync.clone(), message(b'B', b"x"), sync].concat(), true),
        (message(b'Q', b"BEGIN\0"), true),
    ] {
        for cut in 1..sent.len() {
            let (conn, mut requests) = (ConnectionState::new(), FrontendMessages::default());
            requests.observe(&sent[..cut], &conn);
            assert!(!requests.take_question(), "{cut} of {}", sent.len());
            requests.observe(&sent[cut..], &conn);
            assert_eq!((requests.take_question(), requests.take_question()), (is_asked, false));
        }
    }
}

#[test]
fn an_error_is_held_until_its_reply_is_complete_and_what_came_before_is_not() {
    let (conn, mut frames) = (ConnectionState::new(), BackendMessages::default());
    let reply = [message(b'C', b"INSERT 0 1\0"), message(b'Z', b"I")].concat();
    let error = message(b'E', b"SFATAL\0C57P01\0\0");
    assert_eq!(frames.observe(&[reply.clone(), error.clone()].concat(), &conn), error.len());
    assert_eq!(frames.observe(&message(b'Z', b"I"), &conn), 0);
    for cut in 1..error.len() {
        // The first bytes of a header do not tell yet, and may be handed out.
        let first = frames.observe(&error[..cut], &conn);
        assert!(first == cut || (cut < 5 && first == 0), "{first} of {cut}");
        assert_eq!(frames.observe(&error[cut..], &conn), error.len());
        assert_eq!(frames.observe(&reply, &conn), 0);
    }
}

/// What a server may say, and at the end what it never says in full.
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
    fn what_the_server_says_means_the_same_however_it_is_cut(
        bytes in messages(),
        cuts in vec(1..9_usize, 1..20),
    ) {
        let (whole, in_parts) = (ConnectionState::new(), ConnectionState::new());
        let held = BackendMessages::default().observe(&bytes, &whole);
        let (mut frames, mut rest, mut last) = (BackendMessages::default(), bytes.as_slice(), 0);
        for cut in cuts.iter().cycle() {
            let (part, others) = rest.split_at(rest.len().min(*cut));
            if part.is_empty() {
                break;
            }
            (last, rest) = (frames.observe(part, &in_parts), others);
        }
        prop_assert_eq!(in_parts.status(), whole.status());
        prop_assert_eq!(in_parts.has_lost_count(), whole.has_lost_count());
        prop_assert_eq!(last, held);
    }

    #[test]
    fn no_bytes_are_too_strange(bytes in vec(any::<u8>(), 0..60)) {
        let conn = ConnectionState::new();
        BackendMessages::default().observe(&bytes, &conn);
        FrontendMessages::default().observe(&bytes, &conn);
        let _ = last_words_of(&bytes);
    }
}
