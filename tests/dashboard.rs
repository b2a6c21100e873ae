//! The live page, as a browser fetches it: what it may load and run, and that it has no data. What it shows is looked at in a
//! browser.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests fails the test by panicking, as the test itself would"
)]

use crate::http::{Answer, get, send};
use crate::support::App;

const FILES: [(&str, &str); 3] = [
    ("/dashboard", "text/html; charset=utf-8"),
    ("/dashboard/page.css", "text/css; charset=utf-8"),
    ("/dashboard/page.js", "text/javascript; charset=utf-8"),
];

#[test]
fn the_page_needs_no_token_has_no_data_and_runs_only_its_own_script() {
    let app = App::start_with(&[("DB_POOL_NAME", "secret-name")]);
    let answers: Vec<Answer> = FILES.iter().map(|(path, _)| get(&app, path)).collect();
    for ((path, content_type), answer) in FILES.iter().zip(&answers) {
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(*content_type)), "{path}");
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert!(!answer.text.contains("secret-name") && !answer.text.contains(&app.token), "{path}");
        let head = send(&app, "HEAD", path, None, None);
        assert_eq!((head.status, head.text.as_str()), (200, ""), "{path}");
        let refused = send(&app, "POST", path, None, Some("{}"));
        assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")), "{path}");
    }
    let [page, _, script] = &answers[..] else { unreachable!() };
    assert!(page.text.contains(r#"<meta name="series" content="/api/health/db/series">"#), "{}", page.text);
    // What the policy would block, and what would make markup of a statement's text.
    for blocked in [" style=", " onclick=", " onload=", "<script>", "<style>"] {
        assert!(!page.text.contains(blocked), "the page has {blocked}");
    }
    for dangerous in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
        assert!(!script.text.contains(dangerous), "the script has {dangerous}");
    }
    let size: usize = answers.iter().map(|answer| answer.text.len()).sum();
    assert!(size <= 60_000, "{size} bytes in all");
}

/// Names in the page's markup that the script looks up, and in the answer of which it shows parts.
#[test]
fn the_script_finds_the_parts_of_the_page() {
    let app = App::start();
    let (page, script) = (get(&app, "/dashboard").text, get(&app, "/dashboard/page.js").text);
    let ids: Vec<_> = script.split("byId(\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(ids.len() > 15, "{ids:?}");
    for id in ids {
        assert!(page.contains(&format!("id=\"{id}\"")), "the page has no {id}");
    }
    let series = crate::http::get_as_known(&app, "/api/health/db/series").json();
    let fields = script.split("series.").skip(1).map(|rest| {
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap();
        &rest[..end]
    });
    for field in fields {
        assert!(series.get(field).is_some(), "the series has no {field}");
    }
}
