//! `/api/documents` as its users meet it.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests fails the test by panicking, as the test itself would"
)]

use crate::http::{Answer, get, raw_status, send, write};
use crate::support::App;
use serde_json::{Value, json};

/// Sends the document itself, declared as `content_type`.
fn post_text(app: &App, query: &str, content_type: &str, body: &[u8]) -> Answer {
    let config = ureq::Agent::config_builder().http_status_as_error(false).build();
    let mut answer = ureq::Agent::new_with_config(config)
        .post(format!("{}/api/documents?{query}", app.base_url))
        .header("authorization", format!("Bearer {}", app.token))
        .header("content-type", content_type)
        .send(body)
        .unwrap();
    Answer {
        status: answer.status().as_u16(),
        headers: answer.headers().clone(),
        text: answer.body_mut().read_to_string().unwrap(),
    }
}

fn add(app: &App, source: &str, text: &str) -> i64 {
    let added = write(app, "POST", "/api/documents", &json!({"source": source, "text": text}).to_string());
    assert_eq!(added.status, 201, "{added:?}");
    added.json()["document_id"].as_i64().unwrap()
}

#[track_caller]
fn documents(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["documents"].as_array().unwrap().clone()
}

fn counts(app: &App) -> (i64, i64) {
    let sql = "SELECT (SELECT count(*) FROM documents), (SELECT count(*) FROM chunks)";
    let row = app.database().client().query_one(sql, &[]).unwrap();
    (row.get(0), row.get(1))
}

#[test]
fn a_document_is_added_read_and_removed() {
    let app = App::start_with(&[("DOCUMENT_CHUNK_BYTES", "64"), ("DOCUMENT_OVERLAP_BYTES", "0")]);
    let text = "A first sentence of some length, é. A second one.\n\nA paragraph of its own, with 界 in it.";
    let body = json!({"source": "https://example.org/a", "title": " On pools ", "text": text});
    let added = write(&app, "POST", "/api/documents", &body.to_string());
    assert_eq!(added.status, 201, "{added:?}");
    let mut document = added.json();
    let path = format!("/api/documents/{}", document["document_id"]);
    assert_eq!(added.header("location"), Some(path.as_str()));
    assert_eq!(
        (&document["source"], &document["title"], &document["media_type"], &document["byte_length"]),
        (&json!("https://example.org/a"), &json!("On pools"), &json!("text/plain"), &json!(text.len()))
    );
    assert_eq!(document["sha256"].as_str().unwrap().len(), 64);
    assert!(document["loaded_at"].as_str().unwrap().ends_with('Z'), "{document}");
    assert_eq!(get(&app, &format!("{path}?chunks=false")).json(), document);

    let whole = get(&app, &path).json();
    let chunks = whole["chunks"].as_array().unwrap();
    assert_eq!(chunks.len(), 2, "{whole}");
    for (ordinal, chunk) in chunks.iter().enumerate() {
        let number = |name: &str| usize::try_from(chunk[name].as_u64().unwrap()).unwrap();
        assert_eq!(number("ordinal"), ordinal);
        assert_eq!(chunk["text"], text[number("start")..number("end")]);
    }
    document["chunks"] = whole["chunks"].clone();
    assert_eq!(whole, document);

    let again = write(&app, "POST", "/api/documents", &body.to_string());
    assert_eq!((again.status, again.error_code().as_str()), (409, "conflict"));
    assert_eq!(again.message(), "there is a document with the source 'https://example.org/a' already");

    let removed = send(&app, "DELETE", &path, Some(&app.token), None);
    assert_eq!((removed.status, removed.text.as_str()), (204, ""));
    assert_eq!(counts(&app), (0, 0));
    for answer in [get(&app, &path), send(&app, "DELETE", &path, Some(&app.token), None)] {
        assert_eq!((answer.status, answer.error_code().as_str()), (404, "not_found"));
        assert!(answer.message().starts_with("there is no document "), "{}", answer.message());
    }
}

#[test]
fn a_document_can_be_the_body_itself() {
    let app = App::start();
    for (query, content_type, body, title, text) in [
        ("source=notes.txt", "text/plain", "Just words", "notes.txt", "Just words"),
        ("source=b&title=Given", "Text/Plain; charset=UTF-8", "\u{feff}Words", "Given", "Words"),
        ("source=c/readme.md", "text/markdown", "# Pools\n\nWords", "Pools", "# Pools\n\nWords"),
        ("source=d", "text/html", "<title>A &lt;b&gt;</title><p>One<p>Two", "A <b>", "One\n\nTwo"),
        ("source=e", "text/csv", "a,b", "e", "a,b"),
    ] {
        let added = post_text(&app, query, content_type, body.as_bytes());
        assert_eq!(added.status, 201, "{query}: {added:?}");
        assert_eq!(
            (&added.json()["title"], &added.json()["byte_length"]),
            (&json!(title), &json!(body.len()))
        );
        let whole = get(&app, added.header("location").unwrap()).json();
        assert_eq!(whole["chunks"][0]["text"], text, "{query}");
    }
}

#[test]
fn documents_are_found_by_their_words_best_first_with_safe_snippets() {
    let app = App::start();
    let best =
        add(&app, "best", "Connection pools: a pool of connections. Pooling connections is what pools do.");
    let good = add(&app, "good", "Somewhere in here is a <script>alert('pool')</script> & a connection.");
    add(&app, "other", "Un café à côté.");
    let ids = |query: &str| -> Vec<i64> {
        let found = documents(&get(&app, &format!("/api/documents?{query}")));
        found.iter().map(|document| document["document_id"].as_i64().unwrap()).collect()
    };
    assert_eq!(ids("search=connection+pool"), [best, good]);
    assert_eq!(ids("search=%22pool+of+connections%22"), [best]);
    assert_eq!(ids("search=%3Cscript%3E"), [good], "what looks like a tag is words");
    assert_eq!(ids("search=pool+-somewhere"), [best]);
    assert_eq!(ids("search=CAFE").len(), 1);
    assert_eq!(ids("search=nothing"), Vec::<i64>::new());

    let found = documents(&get(&app, "/api/documents?search=pool"));
    let snippets: Vec<_> = found.iter().map(|hit| hit["snippet"].as_str().unwrap()).collect();
    assert!(snippets[0].contains("<mark>pools</mark>"), "{snippets:?}");
    for snippet in snippets {
        assert!(!snippet.contains("script") || snippet.contains("&lt;script&gt;alert(&#39;"), "{snippet}");
        let bare = snippet.replace("<mark>", "").replace("</mark>", "");
        assert!(!bare.contains(['<', '>', '"', '\'']), "{snippet}");
        assert_eq!(snippet.matches("<mark>").count(), snippet.matches("</mark>").count(), "{snippet}");
    }
    // Search text is text: no operator, quote or pattern of it is an error.
    for hostile in [
        "pool%27+OR+1=1--",
        "%22pool",
        "pool%5C",
        "pool%26%26b",
        "%28pool",
        "pool:*",
        "%EF%B7%90pool",
        "or+or+pool+-",
    ] {
        assert_eq!(get(&app, &format!("/api/documents?search={hostile}")).status, 200, "{hostile}");
    }
}

#[test]
fn what_marks_the_words_cannot_be_forged() {
    let app = App::start();
    add(&app, "forged", "A \u{fdd0}forged\u{fdd1} mark, \u{fdd0}not closed, and a pool.");
    let snippet = documents(&get(&app, "/api/documents?search=pool"))[0]["snippet"].clone();
    assert_eq!(snippet, "forged mark, not closed, and a <mark>pool</mark>");
}

#[test]
fn pages_of_documents_follow_one_another_and_miss_nothing() {
    let app = App::start();
    // Two ranks with several documents of the same rank.
    let mut added = Vec::new();
    for number in 0..7 {
        let text = if number % 2 == 0 { "pool pool pool" } else { "one pool" };
        added.push(add(&app, &format!("number {number}"), text));
    }
    for (query, expected) in [
        ("", added.clone()),
        // Empty is not given.
        ("search=&", added.clone()),
        ("search=pool&", [0, 2, 4, 6, 1, 3, 5].map(|index: usize| added[index]).to_vec()),
    ] {
        let mut after = String::new();
        let mut ids = Vec::new();
        loop {
            let page = get(&app, &format!("/api/documents?{query}limit=2&after={after}"));
            ids.extend(documents(&page).iter().map(|document| document["document_id"].as_i64().unwrap()));
            match page.json()["next_after"].as_str() {
                Some(next) => after = next.to_owned(),
                None => break,
            }
        }
        assert_eq!(ids, expected, "{query}");
    }
}

#[test]
fn bad_input_about_documents_gets_its_status_and_a_message_and_changes_nothing() {
    let app = App::start_with(&[("DOCUMENT_MAX_BYTES", "4096")]);
    let id = format!("/api/documents/{}", add(&app, "kept", "Kept as it is."));
    let before = counts(&app);
    let reads = [
        ("/api/documents/0", 422, "document_id: '0' is not a whole number from 1 to 9223372036854775807"),
        ("/api/documents/x", 422, "document_id: 'x'"),
        ("/api/documents/9223372036854775807", 404, "there is no document 9223372036854775807"),
        ("/api/documents/1?chunks=no", 422, "chunks: 'no' is neither true nor false"),
        ("/api/documents?limit=0", 422, "limit: '0' is not a whole number from 1 to 100"),
        ("/api/documents?after=x&limit=0&colour=red", 422, "limit: '0' is not"),
        (
            "/api/documents?after=x&limit=0&colour=red",
            422,
            "'colour': unknown, known are search, after, limit",
        ),
        ("/api/documents?after=x&limit=0&colour=red", 422, "after: 'x' is not a whole number"),
        ("/api/documents?search=a&after=7", 422, "after: '7' is not the next_after of a search"),
        ("/api/documents?search=a&after=NaN,1", 422, "after: 'NaN,1'"),
        ("/api/documents?search=a&after=1e99,1", 422, "after: '1e99,1'"),
        ("/api/documents?search=%21%3F", 422, "search: '!?' has no letter and no digit"),
        ("/api/documents?search=the", 422, "search: has no word to look for"),
        ("/api/documents?search=-kept", 422, "search: has no word to look for"),
        ("/api/documents?search=a%00", 422, "U+0000"),
    ];
    for (path, status, part) in reads {
        let answer = get(&app, path);
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
        assert!(answer.message().contains(part), "{path}: {}", answer.message());
    }

    let long = "x".repeat(2049);
    let writes = [
        ("{", 400, "line 1 column 1"),
        ("", 400, "not valid JSON"),
        ("[]", 422, "expected a map"),
        ("{}", 422, "source: missing; text: missing"),
        (r#"{"source":" ","text":" ","title":"","media_type":"image/png","size":1}"#, 422, "'size': unknown"),
        (
            r#"{"source":" ","text":" ","title":"","media_type":"image/png","size":1}"#,
            422,
            "source: must not be empty; title: must not be empty; media_type: 'image/png' is not text/plain, \
             text/markdown, text/html or alike; text: must not be empty",
        ),
        (r#"{"source":"a","source":"b","text":"x"}"#, 422, "source: given more than once"),
        (r#"{"source":"/etc/motd","text":"x"}"#, 422, "begins with a slash"),
        (r#"{"source":"a","text":"x\u0000y"}"#, 422, "text: has the control character U+0000"),
        (r#"{"source":"a\u0007","text":"x"}"#, 422, "source: has the control character U+0007"),
        (r#"{"source":"a","text":"<p></p>","media_type":"text/html"}"#, 422, "the document has no text"),
        (r#"{"source":1,"text":2}"#, 422, "source: '1' is not a text; text: '2' is not a text"),
        (&format!(r#"{{"source":"{long}","text":"x"}}"#), 422, "source: has 2049 characters"),
        (&format!(r#"{{"source":"{}","text":"x"}}"#, "é".repeat(1025)), 422, "source: has 2050 bytes"),
        (&" ".repeat(4097), 413, "larger than 4096 bytes (DOCUMENT_MAX_BYTES)"),
    ];
    for (body, status, part) in writes {
        let answer = write(&app, "POST", "/api/documents", body);
        assert_eq!(answer.status, status, "{body}: {}", answer.text);
        assert!(answer.message().contains(part), "{body}: {}", answer.message());
    }

    for (query, content_type, body, status, part) in [
        ("source=a", "text/plain", &b""[..], 422, "the document is empty"),
        ("source=a", "text/plain", b" \n", 422, "the document has no text"),
        ("source=a", "text/plain", b"caf\xe9!", 422, "is not UTF-8: byte 3"),
        ("source=a", "text/plain", b"\0\x01", 422, "is binary"),
        ("source=a", "text/plain", &[b'x'; 4097], 413, "larger than 4096 bytes"),
        ("", "text/plain", b"x", 422, "source: missing"),
        ("title=x", "application/json", br#"{"source":"a","text":"x"}"#, 422, "are members of the body"),
        (
            "title=%07&name=x",
            "text/plain",
            b"x",
            422,
            "title: has the control character U+0007; 'name': unknown",
        ),
        ("source=a", "text/plain; charset=latin1", b"x", 415, "send the text as UTF-8"),
        ("source=a", "application/pdf", b"%PDF", 415, "send JSON"),
    ] {
        let answer = post_text(&app, query, content_type, body);
        assert_eq!(answer.status, status, "{query} {content_type}: {}", answer.text);
        assert!(answer.message().contains(part), "{query} {content_type}: {}", answer.message());
    }

    for (method, path) in [("POST", "/api/documents"), ("DELETE", &id)] {
        let refused = send(&app, method, path, None, Some(r#"{"source":"a","text":"x"}"#));
        assert_eq!((refused.status, refused.error_code().as_str()), (401, "unauthorized"));
    }
    for (method, path, allow) in
        [("PUT", "/api/documents", "GET, HEAD, POST"), ("PUT", &id, "GET, HEAD, DELETE")]
    {
        let refused = write(&app, method, path, "{}");
        assert_eq!((refused.status, refused.header("allow")), (405, Some(allow)));
    }
    // Without a length, it is refused once it is too long.
    let chunked = format!(
        "POST /api/documents?source=a HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {}\r\ncontent-type: text/plain\r\n\
         transfer-encoding: chunked\r\n\r\n1001\r\n{}\r\n0\r\n\r\n",
        app.token,
        "x".repeat(4097)
    );
    assert_eq!(raw_status(&app, chunked.as_bytes()), 413);
    assert_eq!(counts(&app), before);
}

#[test]
fn a_document_of_the_largest_size_is_stored_and_its_chunks_put_together_are_its_text() {
    let app = App::start_with(&[("DOCUMENT_MAX_BYTES", "1048576"), ("DOCUMENT_OVERLAP_BYTES", "0")]);
    let line = "Wörter, 単語 and words; more of them. ";
    let text = line.repeat(1_048_576 / line.len());
    let added = post_text(&app, "source=large", "text/plain", text.as_bytes());
    assert_eq!(added.status, 201, "{added:?}");
    let sql = "SELECT string_agg(text, ' ' ORDER BY ordinal) FROM chunks";
    let stored: String = app.database().client().query_one(sql, &[]).unwrap().get(0);
    assert!(stored == text.trim(), "{} bytes instead of {}", stored.len(), text.len());
}

#[test]
fn a_full_disk_is_reported_as_one_and_stores_nothing() {
    let app = App::start();
    // The server raises what a full disk raises, from inside the statement that stores the chunks.
    let full = "
        CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
        END $$;
        CREATE TRIGGER full_disk BEFORE INSERT ON chunks FOR EACH ROW EXECUTE FUNCTION full_disk()";
    app.database().client().batch_execute(full).unwrap();
    let answer = post_text(&app, "source=a", "text/plain", b"words");
    assert_eq!((answer.status, answer.error_code().as_str()), (503, "disk_full"));
    assert_eq!(answer.message(), "the database's disk is full: nothing was stored");
    assert_eq!(counts(&app), (0, 0));
    assert!(app.log().contains("The database's disk is full"), "{}", app.log());
}
