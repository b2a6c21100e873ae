//! The catalogue of movies: its operations, and the meaning of a violated constraint. It knows no HTTP and no SQL.

use crate::repositories::movies as repository;
use poolhouse::Error;
use poolhouse::web::ApiError;
use serde::Serialize;
use std::fmt;
use std::ops::RangeInclusive;
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

pub(crate) use crate::repositories::movies::{Movie, MovieFilter};

/// The genres of MovieLens.
pub(crate) const GENRES: [&str; 19] = [
    "Action",
    "Adventure",
    "Animation",
    "Children",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "IMAX",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
];

/// The years a movie may have; the table's constraint `movies_year_plausible` says the same.
pub(crate) const YEARS: RangeInclusive<i32> = 1870..=2200;

/// Whether a title has a visible character: a letter, digit, punctuation mark or symbol (the general categories L, N,
/// P and S of Unicode) that is not one of the few blank ones.
pub(crate) fn is_visible(title: &str) -> bool {
    // The fillers of Hangul, and Braille without a dot.
    const BLANK: [char; 5] = ['\u{115f}', '\u{1160}', '\u{2800}', '\u{3164}', '\u{ffa0}'];
    use GeneralCategoryGroup::{Letter, Number, Punctuation, Symbol};
    title.chars().any(|c| {
        matches!(c.general_category_group(), Letter | Number | Punctuation | Symbol) && !BLANK.contains(&c)
    })
}

/// A page of movies in the order of their ids.
#[derive(Debug, Serialize)]
pub(crate) struct MoviePage {
    pub(crate) movies: Vec<Movie>,
    /// The `after` of the next page; `None` on the last page.
    pub(crate) next_after: Option<i32>,
}

/// Why an operation on the catalogue failed.
#[derive(Debug)]
pub(crate) enum MovieError {
    /// There is no movie with this id.
    Unknown(i32),
    /// There is already a movie with this id.
    Taken(i32),
    /// A constraint of the table is violated; the text is for the client.
    Invalid(&'static str),
    /// Any other error of the database.
    Database(Error),
    /// The same of an async query, which may have found no thread or no time either.
    Query(ApiError),
}

/// How many movies there are.
pub(crate) fn count_movies() -> Result<i64, MovieError> {
    Ok(repository::count_movies()?)
}

/// The movie of this id.
pub(crate) async fn find_movie(movie_id: i32) -> Result<Movie, MovieError> {
    repository::find_movie(movie_id).await?.ok_or(MovieError::Unknown(movie_id))
}

/// The first `limit` movies that match.
pub(crate) async fn list_movies(filter: MovieFilter, limit: u16) -> Result<MoviePage, MovieError> {
    // One more than requested shows whether there is a next page, without a second query.
    let limit = usize::from(limit);
    let mut movies = repository::list_movies(filter, limit as i64 + 1).await?;
    let has_more = movies.len() > limit;
    movies.truncate(limit);
    let next_after = movies.last().filter(|_| has_more).map(|movie| movie.movie_id);
    Ok(MoviePage { movies, next_after })
}

/// Adds a movie.
pub(crate) fn add_movie(movie: &Movie) -> Result<(), MovieError> {
    repository::insert_movie(movie).map_err(|error| refusal(error, movie.movie_id))?;
    Ok(())
}

/// Replaces the movie with the same id.
pub(crate) fn replace_movie(movie: &Movie) -> Result<(), MovieError> {
    let replaced = repository::update_movie(movie).map_err(|error| refusal(error, movie.movie_id))?;
    existed(replaced, movie.movie_id)
}

/// Removes a movie.
pub(crate) fn remove_movie(movie_id: i32) -> Result<(), MovieError> {
    existed(repository::delete_movie(movie_id)?, movie_id)
}

fn existed(rows: u64, movie_id: i32) -> Result<(), MovieError> {
    if rows == 0 { Err(MovieError::Unknown(movie_id)) } else { Ok(()) }
}

/// Maps a violated constraint to an error. A query beforehand would cost a round trip, and could be outdated by the
/// time of the write.
fn refusal(error: Error, movie_id: i32) -> MovieError {
    match error.constraint() {
        Some("movies_pkey") => MovieError::Taken(movie_id),
        Some("movies_movie_id_positive") => MovieError::Invalid("movie_id: must be above 0"),
        Some("movies_title_not_empty") => MovieError::Invalid("title: must not be empty"),
        Some("movies_year_plausible") => MovieError::Invalid("year: must be from 1870 to 2200"),
        _ => MovieError::Database(error),
    }
}

impl From<Error> for MovieError {
    fn from(error: Error) -> MovieError {
        MovieError::Database(error)
    }
}

impl From<ApiError> for MovieError {
    fn from(error: ApiError) -> MovieError {
        MovieError::Query(error)
    }
}

impl fmt::Display for MovieError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MovieError::Unknown(movie_id) => write!(f, "there is no movie {movie_id}"),
            MovieError::Taken(movie_id) => write!(f, "there is a movie {movie_id} already"),
            MovieError::Invalid(message) => f.write_str(message),
            MovieError::Database(error) => error.fmt(f),
            MovieError::Query(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for MovieError {}
