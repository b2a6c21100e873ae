//! The routes below `/api/movies`: reading needs no token, writing does.

use crate::http::handlers::input::{self, Body, MovieId};
use crate::services::movies::{self as service, Movie, MovieError};
use actix_web::http::header::LOCATION;
use actix_web::web::{self, Json, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use poolhouse::web::{ApiError, BearerAuth, blocking, method_not_allowed, read};

pub(crate) fn movie_routes(auth: BearerAuth) -> impl FnOnce(&mut ServiceConfig) {
    move |config| {
        let all = web::resource("/api/movies")
            .route(read().to(list))
            .route(web::post().to(create).wrap(auth.clone()))
            .default_service(method_not_allowed("GET, HEAD, POST"));
        let one = web::resource("/api/movies/{movie_id}")
            .route(read().to(show))
            .route(web::put().to(replace).wrap(auth.clone()))
            .route(web::delete().to(remove).wrap(auth))
            .default_service(method_not_allowed("GET, HEAD, PUT, DELETE"));
        config.service(all).service(one);
    }
}

async fn list(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let (filter, limit) = input::movie_filter(request.query_string())?;
    Ok(HttpResponse::Ok().json(service::list_movies(filter, limit).await?))
}

async fn show(id: MovieId) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(service::find_movie(id.0).await?))
}

async fn create(body: Json<Body>) -> Result<HttpResponse, ApiError> {
    let movie = write(input::movie(&body, None)?, service::add_movie).await?;
    let location = format!("/api/movies/{}", movie.movie_id);
    Ok(HttpResponse::Created().insert_header((LOCATION, location)).json(movie))
}

async fn replace(id: MovieId, body: Json<Body>) -> Result<HttpResponse, ApiError> {
    let movie = write(input::movie(&body, Some(id.0))?, service::replace_movie).await?;
    Ok(HttpResponse::Ok().json(movie))
}

async fn remove(id: MovieId) -> Result<HttpResponse, ApiError> {
    blocking(move || service::remove_movie(id.0)).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Writes a movie and returns it for the response.
async fn write(movie: Movie, how: fn(&Movie) -> Result<(), MovieError>) -> Result<Movie, ApiError> {
    blocking(move || how(&movie).map(|()| movie)).await
}

impl From<MovieError> for ApiError {
    fn from(error: MovieError) -> ApiError {
        match error {
            MovieError::Unknown(_) => ApiError::not_found(error.to_string()),
            MovieError::Taken(_) => ApiError::conflict(error.to_string()),
            MovieError::Invalid(message) => ApiError::invalid(message),
            MovieError::Database(error) => error.into(),
            MovieError::Query(error) => error,
        }
    }
}
