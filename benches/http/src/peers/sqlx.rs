//! sqlx with its own statement cache, as it comes.

use super::{Movie, SQL, answer};
use actix_web::error::ErrorInternalServerError;
use actix_web::rt::System;
use actix_web::web::{self, Data, Path};
use actix_web::{App, HttpResponse, HttpServer};
use sqlx::postgres::{PgPoolOptions, PgRow};
use sqlx::{FromRow, PgPool, Row};
use std::io;
use std::net::SocketAddr;

impl<'r> FromRow<'r, PgRow> for Movie {
    fn from_row(row: &'r PgRow) -> Result<Movie, sqlx::Error> {
        Ok(Movie {
            movie_id: row.try_get(0)?,
            title: row.try_get(1)?,
            year: row.try_get(2)?,
            genres: row.try_get(3)?,
        })
    }
}

async fn show(pool: Data<PgPool>, id: Path<i32>) -> actix_web::Result<HttpResponse> {
    let movie = sqlx::query_as::<_, Movie>(SQL).bind(*id).fetch_optional(&**pool).await;
    Ok(answer(movie.map_err(ErrorInternalServerError)?))
}

pub(super) fn serve(bind: SocketAddr, database: &str, pool: u32, workers: usize) -> io::Result<()> {
    System::new().block_on(async {
        let options = PgPoolOptions::new().max_connections(pool);
        let pool = options.connect(database).await.map_err(io::Error::other)?;
        let app = move || {
            App::new().app_data(Data::new(pool.clone())).route("/api/movies/{movie_id}", web::get().to(show))
        };
        HttpServer::new(app).workers(workers).bind(bind)?.run().await
    })
}
