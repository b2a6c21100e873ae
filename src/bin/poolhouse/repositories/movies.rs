//! SQL for the table `movies`. A violated constraint is returned as the database's own error.

use poolhouse::web::{self, ApiError};
use poolhouse::{Result, ToSql, execute_query_one, execute_write};
use serde::{Deserialize, Serialize};

/// A row of `movies`, and its JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Movie {
    pub(crate) movie_id: i32,
    pub(crate) title: String,
    pub(crate) year: Option<i32>,
    pub(crate) genres: Vec<String>,
}

/// The filter of a list: movies after an id that match every given condition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MovieFilter {
    pub(crate) search: Option<String>,
    pub(crate) genre: Option<String>,
    pub(crate) year: Option<i32>,
    pub(crate) after: i32,
}

pub(crate) fn count_movies() -> Result<i64> {
    execute_query_one("SELECT count(*) FROM movies", &[]).map(Option::unwrap_or_default)
}

pub(crate) async fn find_movie(movie_id: i32) -> Result<Option<Movie>, ApiError> {
    let sql = "SELECT movie_id, title, year, genres FROM movies WHERE movie_id = $1";
    web::execute_query_one(sql, (movie_id,)).await
}

/// The first `limit` matches in the order of their ids.
pub(crate) async fn list_movies(filter: MovieFilter, limit: i64) -> Result<Vec<Movie>, ApiError> {
    // One of eight texts, each prepared and planned on its own. With `$1 IS NULL OR …` one prepared statement would
    // have to fit every combination, and could use no index.
    let mut sql = String::from("SELECT movie_id, title, year, genres FROM movies WHERE movie_id > $1");
    let mut params: Vec<Box<dyn ToSql + Send + Sync>> = vec![Box::new(filter.after), Box::new(limit)];
    if let Some(search) = filter.search {
        params.push(Box::new(search));
        sql += &format!(" AND search @@ poolhouse_query(${})", params.len());
    }
    if let Some(genre) = filter.genre {
        params.push(Box::new(genre));
        // The index on genres supports `@>`, and not `= ANY`.
        sql += &format!(" AND genres @> ARRAY[${}::text]", params.len());
    }
    if let Some(year) = filter.year {
        params.push(Box::new(year));
        sql += &format!(" AND year = ${}", params.len());
    }
    sql += " ORDER BY movie_id LIMIT $2";
    web::execute_query(sql, params).await
}

pub(crate) fn insert_movie(movie: &Movie) -> Result<u64> {
    let sql = "INSERT INTO movies (movie_id, title, year, genres) VALUES ($1, $2, $3, $4)";
    execute_write(sql, &[&movie.movie_id, &movie.title, &movie.year, &movie.genres])
}

/// Replaces the movie with the same id; returns the number of rows, 0 or 1.
pub(crate) fn update_movie(movie: &Movie) -> Result<u64> {
    let sql = "UPDATE movies SET title = $2, year = $3, genres = $4 WHERE movie_id = $1";
    execute_write(sql, &[&movie.movie_id, &movie.title, &movie.year, &movie.genres])
}

/// Returns the number of rows, 0 or 1.
pub(crate) fn delete_movie(movie_id: i32) -> Result<u64> {
    execute_write("DELETE FROM movies WHERE movie_id = $1", &[&movie_id])
}
