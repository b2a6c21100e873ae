//! r2d2 as the examples of actix show it: a connection and a plain `query` inside `web::block`.

use super::{Movie, SQL, answer};
use actix_web::error::ErrorInternalServerError;
use actix_web::rt::System;
use actix_web::web::{self, Data, Path};
use actix_web::{App, HttpResponse, HttpServer};
use r2d2_postgres::PostgresConnectionManager;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use tokio_postgres::NoTls;

type Pool = r2d2::Pool<PostgresConnectionManager<NoTls>>;

async fn show(pool: Data<Pool>, id: Path<i32>) -> actix_web::Result<HttpResponse> {
    let movie = web::block(move || {
        let mut client = pool.get()?;
        let row = client.query_opt(SQL, &[&*id])?;
        Ok::<_, Box<dyn Error + Send + Sync>>(row.as_ref().map(Movie::of))
    });
    Ok(answer(movie.await?.map_err(ErrorInternalServerError)?))
}

pub(super) fn serve(bind: SocketAddr, database: &str, pool: u32, workers: usize) -> io::Result<()> {
    let config = database.parse().map_err(io::Error::other)?;
    let manager = PostgresConnectionManager::new(config, NoTls);
    // Connects, and must not do so inside of async code.
    let pool = r2d2::Pool::builder().max_size(pool).build(manager).map_err(io::Error::other)?;
    let app = move || {
        App::new().app_data(Data::new(pool.clone())).route("/api/movies/{movie_id}", web::get().to(show))
    };
    System::new().block_on(async { HttpServer::new(app).workers(workers).bind(bind)?.run().await })
}
