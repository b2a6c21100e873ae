//! The server's messages, as far as the pool has to understand them.

use super::wire::{LastWords, Wire};

/// Follows messages however their bytes are cut: one type byte, four length bytes that count themselves, a body.
#[derive(Debug, Default)]
struct Cursor {
    header: [u8; 5],
    have: usize,
    /// Bytes of the current message's body still to come.
    body: usize,
}

/// What comes next of a message.
enum Part<'a> {
    /// So many bytes of a header that is not complete.
    HeaderBegun(usize),
    /// So many bytes that complete the header of a message of this type.
    Header(usize, u8),
    /// Some of the body of a message of this type.
    Body(&'a [u8], u8),
}

impl Cursor {
    /// Takes the next part off `bytes`, which must not be empty.
    fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Part<'a> {
        if self.have < 5 {
            let take = bytes.len().min(5 - self.have);
            self.header[self.have..self.have + take].copy_from_slice(&bytes[..take]);
            self.have += take;
            *bytes = &bytes[take..];
            if self.have < 5 {
                return Part::HeaderBegun(take);
            }
            let [kind, a, b, c, d] = self.header;
            self.body = (u32::from_be_bytes([a, b, c, d]) as usize).saturating_sub(4);
            self.end_if_complete();
            return Part::Header(take, kind);
        }
        let (body, rest) = bytes.split_at(bytes.len().min(self.body));
        self.body -= body.len();
        *bytes = rest;
        self.end_if_complete();
        Part::Body(body, self.header[0])
    }

    /// No message is begun and not ended.
    fn is_between(&self) -> bool {
        self.have == 0
    }

    fn end_if_complete(&mut self) {
        if self.body == 0 {
            self.have = 0;
        }
    }
}

/// Follows the server's messages for the kinds that matter here: ReadyForQuery (`Z`), which ends a reply and
/// tells the transaction status, ErrorResponse (`E`), and of the login BackendKeyData (`K`).
#[derive(Debug, Default)]
pub(crate) struct Frames {
    cursor: Cursor,
    /// Bytes since an ErrorResponse began whose reply is not complete; 0 where there is none.
    since_error: usize,
    /// The first reply is complete: the login is over.
    is_started: bool,
    /// The server waits for the data of a COPY.
    is_copying: bool,
    /// What of BackendKeyData has come.
    cancel_key: Vec<u8>,
}

impl Frames {
    /// Whether the login is over. Before it, the client's messages are of another form.
    pub(crate) fn is_started(&self) -> bool {
        self.is_started
    }

    /// Looks at what was read. Returns how many of the last bytes are an error whose reply is not complete.
    ///
    /// The server sends an error at once and the end of that reply a moment later. A driver that is shown the
    /// error alone returns with a reply outstanding, and nobody knows whether the transaction has failed; so
    /// the error is held until its reply is complete. An error that follows a complete reply is the server
    /// ending the session, and must not reach the driver before it has taken that reply.
    pub(crate) fn observe(&mut self, mut bytes: &[u8], wire: &Wire) -> usize {
        while !bytes.is_empty() {
            let count = match self.cursor.next(&mut bytes) {
                Part::Header(_, b'E') if self.since_error == 0 => {
                    self.since_error = 5;
                    if self.is_copying {
                        // Whether the Sync sent with the statement has a reply of its own now depends on which of
                        // the two the server met first.
                        wire.lose_count();
                    }
                    continue;
                }
                Part::Header(count, b'G') => {
                    self.is_copying = true;
                    count
                }
                Part::Body(&[status], b'Z') => {
                    wire.end_reply(status);
                    self.is_started = true;
                    self.is_copying = false;
                    self.since_error = 0;
                    continue;
                }
                Part::Body(part, b'K') => {
                    self.cancel_key.extend(part);
                    if self.cursor.is_between() {
                        wire.keep_cancel_key(&std::mem::take(&mut self.cancel_key));
                    }
                    part.len()
                }
                Part::HeaderBegun(count) | Part::Header(count, _) => count,
                Part::Body(body, _) => body.len(),
            };
            if self.since_error > 0 {
                self.since_error += count;
            }
        }
        self.since_error
    }
}

/// What an ErrorResponse says, where `bytes` begin with a complete one (PostgreSQL, "Error and Notice Message
/// Fields": `V` is the severity, in older servers only `S` in the server's language; `C` the SQLSTATE, `M` the message).
pub(crate) fn last_words_of(bytes: &[u8]) -> Option<LastWords> {
    let [b'E', a, b, c, d, rest @ ..] = bytes else { return None };
    let length = (u32::from_be_bytes([*a, *b, *c, *d]) as usize).checked_sub(4)?;
    let fields = rest.get(..length)?;
    let field = |name: u8| {
        let text = fields.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(&[name]))?;
        Some(String::from_utf8_lossy(text).into_owned())
    };
    Some(LastWords {
        severity: field(b'V').or_else(|| field(b'S')).unwrap_or_default(),
        code: field(b'C').unwrap_or_default(),
        message: field(b'M')?,
    })
}

/// Follows the client's messages for those that have a reply of their own: Sync (`S`) and Query (`Q`). The driver
/// sends several at once, as when it closes a statement on the way.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    cursor: Cursor,
    /// Since the last Sync something was said whose reply somebody waits for. Nobody waits for that of a Close, which
    /// goes out by itself ahead of the next request.
    has_question: bool,
    /// A message that has such a reply was begun.
    is_asking: bool,
}

impl Requests {
    /// Whether all of a question that somebody waits for an answer to has been written; true once for each.
    pub(crate) fn take_question(&mut self) -> bool {
        self.cursor.is_between() && std::mem::take(&mut self.is_asking)
    }

    pub(crate) fn observe(&mut self, mut bytes: &[u8], wire: &Wire) {
        while !bytes.is_empty() {
            match self.cursor.next(&mut bytes) {
                Part::Header(_, b'Q') => {
                    wire.add_request();
                    self.is_asking = true;
                }
                Part::Header(_, b'S') => {
                    wire.add_request();
                    self.is_asking |= std::mem::take(&mut self.has_question);
                }
                Part::Header(_, b'C') => {}
                // The Sync that followed the statement was swallowed by the COPY it began (PostgreSQL, "COPY
                // Operations"); the one that follows this message ends both.
                Part::Header(_, b'c' | b'f') => {
                    wire.end_request();
                    self.has_question = true;
                }
                Part::Header(..) => self.has_question = true,
                Part::HeaderBegun(_) | Part::Body(..) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut message = vec![kind];
        message.extend((body.len() as u32 + 4).to_be_bytes());
        message.extend(body);
        message
    }

    #[test]
    fn the_status_is_read_however_the_bytes_are_cut() {
        let mut reply = message(b'K', b"\0\0\0\x07key!");
        reply.extend(message(b'2', b""));
        reply.extend(message(b'D', b"Z\0\0\0\x05I and other bytes that look like a message"));
        reply.extend(message(b'C', b"SELECT 1\0"));
        reply.extend(message(b'Z', b"T"));
        for chunk in 1..=reply.len() {
            let wire = Wire::new();
            let mut frames = Frames::default();
            for bytes in reply.chunks(chunk) {
                frames.observe(bytes, &wire);
            }
            assert_eq!(wire.status(), Some(b'T'), "chunks of {chunk}");
            assert_eq!(&*wire.cancel_key(), b"\0\0\0\x07key!", "chunks of {chunk}");
        }
    }

    #[test]
    fn the_status_is_known_again_when_every_request_has_its_reply() {
        let (wire, mut frames, mut requests) = (Wire::new(), Frames::default(), Requests::default());
        frames.observe(&message(b'Z', b"I"), &wire);
        let sent =
            [message(b'C', b"Ss1\0"), message(b'S', b""), message(b'B', b"x"), message(b'S', b"")].concat();
        for bytes in sent.chunks(3) {
            requests.observe(bytes, &wire);
            wire.add_written(bytes.len());
        }
        frames.observe(&message(b'Z', b"I"), &wire);
        assert_eq!(wire.status(), None, "the query's own reply is outstanding");
        frames.observe(&message(b'Z', b"T"), &wire);
        assert_eq!(wire.status(), Some(b'T'));

        let copy =
            [message(b'S', b""), message(b'd', b"1\n"), message(b'c', b""), message(b'S', b"")].concat();
        requests.observe(&copy, &wire);
        wire.add_written(copy.len());
        frames.observe(&message(b'Z', b"T"), &wire);
        assert_eq!(wire.status(), Some(b'T'), "the first Sync of a COPY has no reply");
    }

    #[test]
    fn a_copy_that_is_refused_after_it_began_leaves_nobody_sure_of_the_replies() {
        for (messages, is_counted) in [
            (vec![message(b'E', b"\0"), message(b'Z', b"E")], true),
            (vec![message(b'G', b"\0\0\0"), message(b'C', b"COPY 1\0"), message(b'Z', b"T")], true),
            (vec![message(b'G', b"\0\0\0"), message(b'E', b"\0"), message(b'Z', b"E")], false),
        ] {
            let (wire, mut frames) = (Wire::new(), Frames::default());
            frames.observe(&messages.concat(), &wire);
            assert_eq!(wire.has_lost_count(), !is_counted, "{messages:?}");
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
                let (wire, mut requests) = (Wire::new(), Requests::default());
                requests.observe(&sent[..cut], &wire);
                assert!(!requests.take_question(), "{cut} of {}", sent.len());
                requests.observe(&sent[cut..], &wire);
                assert_eq!((requests.take_question(), requests.take_question()), (is_asked, false));
            }
        }
    }

    #[test]
    fn an_error_is_held_until_its_reply_is_complete_and_what_came_before_is_not() {
        let (wire, mut frames) = (Wire::new(), Frames::default());
        let reply = [message(b'C', b"INSERT 0 1\0"), message(b'Z', b"I")].concat();
        let error = message(b'E', b"SFATAL\0C57P01\0\0");
        assert_eq!(frames.observe(&[reply.clone(), error.clone()].concat(), &wire), error.len());
        assert_eq!(frames.observe(&message(b'Z', b"I"), &wire), 0);
        for cut in 1..error.len() {
            // The first bytes of a header do not tell yet, and may be handed out.
            let first = frames.observe(&error[..cut], &wire);
            assert!(first == cut || (cut < 5 && first == 0), "{first} of {cut}");
            assert_eq!(frames.observe(&error[cut..], &wire), error.len());
            assert_eq!(frames.observe(&reply, &wire), 0);
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
            let (whole, in_parts) = (Wire::new(), Wire::new());
            let held = Frames::default().observe(&bytes, &whole);
            let (mut frames, mut rest, mut last) = (Frames::default(), bytes.as_slice(), 0);
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
            let wire = Wire::new();
            Frames::default().observe(&bytes, &wire);
            Requests::default().observe(&bytes, &wire);
            let _ = last_words_of(&bytes);
        }
    }
}
