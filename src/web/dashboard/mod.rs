//! The live page: a document, a style sheet and a script, compiled in. They have no data; the script asks for a token and fetches
//! the series with it.

use crate::web::{method_not_allowed, read};
use actix_web::HttpResponse;
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::web::{self, ServiceConfig};
use std::future::{Ready, ready};

/// Only what the service itself serves runs, applies or is asked for, and no other page can show this one in a frame. The icon is
/// an empty `data:` URL, so that browsers ask for none.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Mounts the live page at `/dashboard`, for health routes at the path `health`, as `/api/health`.
///
/// The page draws each connection, the queue, the last five minutes, the verdict with warnings and advice, leak suspects and the
/// statements that cost most. It asks for a token once, keeps it until the tab is closed, and polls
/// `/db/series` below `health` once a second while it is visible. What is mounted here needs no token and has no data.
///
/// # Examples
///
/// ```
/// use actix_web::App;
/// use poolhouse::DatabasePool;
/// use poolhouse::web::{BearerAuth, dashboard_routes, health_routes};
///
/// # let auth = BearerAuth::new([]);
/// let app =
///     App::new().configure(health_routes(DatabasePool, auth)).configure(dashboard_routes("/api/health"));
/// ```
pub fn dashboard_routes(health: &str) -> impl FnOnce(&mut ServiceConfig) + Clone + Send + use<> {
    let series =
        format!("{}/db/series", health.trim_end_matches('/')).replace('&', "&amp;").replace('"', "&quot;");
    let page = include_str!("page.html").replace("{series}", &series);
    move |config| {
        let files = [
            ("/dashboard", "text/html; charset=utf-8", page),
            ("/dashboard/page.css", "text/css; charset=utf-8", include_str!("page.css").to_owned()),
            ("/dashboard/page.js", "text/javascript; charset=utf-8", include_str!("page.js").to_owned()),
        ];
        for (path, content_type, text) in files {
            let text = web::Bytes::from(text);
            config.service(
                web::resource(path)
                    .route(read().to(move || file(content_type, text.clone())))
                    .default_service(method_not_allowed("GET, HEAD")),
            );
        }
    }
}

fn file(content_type: &'static str, text: web::Bytes) -> Ready<HttpResponse> {
    let answer = HttpResponse::Ok()
        .content_type(content_type)
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((REFERRER_POLICY, "no-referrer"))
        .insert_header((CACHE_CONTROL, "no-cache"))
        .body(text);
    ready(answer)
}
