//! `GET /api/openapi.json`: the description of every route, as it is in `docs/`. `tests/openapi.rs` compares it with the routes and
//! with their answers.

use actix_web::HttpResponse;
use actix_web::http::header::ContentType;
use actix_web::web::{self, ServiceConfig};
use poolhouse::web::{method_not_allowed, read};

const DESCRIPTION: &str = include_str!("../../../../../docs/openapi.json");

pub(crate) fn openapi_routes(config: &mut ServiceConfig) {
    let route =
        read().to(|| async { HttpResponse::Ok().content_type(ContentType::json()).body(DESCRIPTION) });
    let resource = web::resource("/api/openapi.json").route(route);
    config.service(resource.default_service(method_not_allowed("GET, HEAD")));
}
