//! The same endpoint, each the way the documentation of its pool recommends.

mod deadpool;
mod poolhouse;
mod r2d2;
mod sqlx;

use actix_web::HttpResponse;
use clap::ValueEnum;
use serde::Serialize;
use std::io;
use std::net::SocketAddr;

const SQL: &str = "SELECT movie_id, title, year, genres FROM movies WHERE movie_id = $1";

/// A row, and its JSON.
#[derive(Debug, Serialize)]
struct Movie {
    movie_id: i32,
    title: String,
    year: Option<i32>,
    genres: Vec<String>,
}

impl Movie {
    /// tokio-postgres' rows are those of `postgres` too.
    fn of(row: &tokio_postgres::Row) -> Movie {
        Movie { movie_id: row.get(0), title: row.get(1), year: row.get(2), genres: row.get(3) }
    }
}

fn answer(movie: Option<impl Serialize>) -> HttpResponse {
    match movie {
        Some(movie) => HttpResponse::Ok().json(movie),
        None => HttpResponse::NotFound().finish(),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    Blocking,
    Single,
    Deadpool,
    Sqlx,
    R2d2,
}

impl Peer {
    pub(crate) const ALL: [Peer; 5] = [Peer::Blocking, Peer::Single, Peer::Deadpool, Peer::Sqlx, Peer::R2d2];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::Blocking => "blocking",
            Peer::Single => "single",
            Peer::Deadpool => "deadpool",
            Peer::Sqlx => "sqlx",
            Peer::R2d2 => "r2d2",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Peer::Blocking => "poolhouse, blocking",
            Peer::Single => "poolhouse, single",
            Peer::Deadpool => "deadpool, async",
            Peer::Sqlx => "sqlx, async",
            Peer::R2d2 => "r2d2 in web::block",
        }
    }

    /// Serves until SIGTERM.
    pub(crate) fn serve(self, bind: SocketAddr, database: &str, pool: u32, workers: usize) -> io::Result<()> {
        match self {
            Peer::Blocking => poolhouse::serve(false, bind, database, pool, workers),
            Peer::Single => poolhouse::serve(true, bind, database, pool, workers),
            Peer::Deadpool => deadpool::serve(bind, database, pool, workers),
            Peer::Sqlx => sqlx::serve(bind, database, pool, workers),
            Peer::R2d2 => r2d2::serve(bind, database, pool, workers),
        }
    }
}
