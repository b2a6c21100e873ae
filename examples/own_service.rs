//! A service of one's own on poolhouse: the movies of a year, and the pool's health for who has a token.

use actix_web::{App, HttpServer, rt::System, web};
use poolhouse::web::{ApiError, BearerAuth, blocking, health_routes, json_errors};
use poolhouse::{DatabasePool, Settings, execute_query};
use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Serialize, Deserialize)]
struct Movie {
    movie_id: i32,
    title: String,
    year: Option<i32>,
}

fn movies_of(year: i32) -> poolhouse::Result<Vec<Movie>> {
    execute_query("SELECT movie_id, title, year FROM movies WHERE year = $1 ORDER BY title", &[&year])
}

async fn list(year: web::Path<i32>) -> Result<web::Json<Vec<Movie>>, ApiError> {
    Ok(web::Json(blocking(move || movies_of(*year)).await?))
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let settings = Settings::load()?;
    env_logger::Builder::new().parse_filters(&settings.log_filter).init();
    DatabasePool::initialize(&settings.pool)?;
    let auth = BearerAuth::new(settings.http.tokens);
    let app = move || {
        App::new()
            .configure(json_errors)
            .configure(health_routes(DatabasePool, auth.clone()))
            .route("/years/{year}", web::get().to(list))
    };
    let server = HttpServer::new(app).bind(settings.http.bind)?;
    let served = System::new().block_on(async { server.run().await });
    DatabasePool::close(Duration::from_secs(10));
    Ok(served?)
}

// Plain, not async: the pool opens before the actix system and closes after it.
fn main() {
    if let Err(error) = run() {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
