//! deadpool-postgres with `prepare_cached`, as it comes.

use super::{Movie, SQL, answer};
use actix_web::error::{ErrorInternalServerError, ErrorServiceUnavailable};
use actix_web::rt::System;
use actix_web::web::{self, Data, Path};
use actix_web::{App, HttpResponse, HttpServer};
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use std::io;
use std::net::SocketAddr;
use tokio_postgres::NoTls;

async fn show(pool: Data<Pool>, id: Path<i32>) -> actix_web::Result<HttpResponse> {
    let client = pool.get().await.map_err(ErrorServiceUnavailable)?;
    let statement = client.prepare_cached(SQL).await.map_err(ErrorInternalServerError)?;
    let row = client.query_opt(&statement, &[&*id]).await.map_err(ErrorInternalServerError)?;
    Ok(answer(row.as_ref().map(Movie::of)))
}

pub(super) fn serve(bind: SocketAddr, database: &str, pool: u32, workers: usize) -> io::Result<()> {
    let config = database.parse().map_err(io::Error::other)?;
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = Manager::from_config(config, NoTls, recycling);
    let pool = Pool::builder(manager).max_size(pool as usize).build().map_err(io::Error::other)?;
    let app = move || {
        App::new().app_data(Data::new(pool.clone())).route("/api/movies/{movie_id}", web::get().to(show))
    };
    System::new().block_on(async { HttpServer::new(app).workers(workers).bind(bind)?.run().await })
}
