//! This project's library in the same plain app, without the reference service's middleware: inside `blocking`, and as a single
//! query without a thread.

use super::{SQL, answer};
use actix_web::rt::System;
use actix_web::web::{self, Path};
use actix_web::{App, HttpResponse, HttpServer};
use poolhouse::web::{ApiError, blocking, execute_query_one};
use poolhouse::{DatabasePool, DatabaseSettings, PoolSettings};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::SocketAddr;

/// A row, and its JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Movie {
    movie_id: i32,
    title: String,
    year: Option<i32>,
    genres: Vec<String>,
}

async fn show_blocking(id: Path<i32>) -> Result<HttpResponse, ApiError> {
    let movie: Option<Movie> = blocking(move || poolhouse::execute_query_one(SQL, &[&*id])).await?;
    Ok(answer(movie))
}

async fn show_single(id: Path<i32>) -> Result<HttpResponse, ApiError> {
    let movie: Option<Movie> = execute_query_one(SQL, (*id,)).await?;
    Ok(answer(movie))
}

pub(super) fn serve(
    is_single: bool,
    bind: SocketAddr,
    database: &str,
    pool: u32,
    workers: usize,
) -> io::Result<()> {
    let database = DatabaseSettings::parse(database).map_err(io::Error::other)?;
    let settings = PoolSettings::new(database).with_min_connections(pool).with_max_connections(pool);
    DatabasePool::initialize(&settings).map_err(io::Error::other)?;
    let app = move || {
        let show = if is_single { web::get().to(show_single) } else { web::get().to(show_blocking) };
        App::new().route("/api/movies/{movie_id}", show)
    };
    System::new().block_on(async { HttpServer::new(app).workers(workers).bind(bind)?.run().await })
}
