//! `poolhouse check`: prints the settings in force, connects to the database, and reports whether the pool fits in it.

use crate::cli::{Failure, spelled};
use crate::commands::database::{one_connection, prepare_database, print_line, print_or_fail, with_pool};
use crate::commands::target::Target;
use crate::dev_postgres::Sharing;
use crate::schema;
use poolhouse::{Execute, Pool, PoolSettings, Result, Settings};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fmt;

pub(crate) fn check(mut settings: Settings, json: bool) -> Result<(), Failure> {
    if !json {
        print_line(&describe_settings(&settings));
    }
    let local = prepare_database(&mut settings, Sharing::Join)?;
    let target = Target::of(&settings, local.as_ref());
    if !json {
        print_line(&format!("Database {target}"));
    }
    let found = with_pool(&one_connection(&settings.pool), &target, |pool| {
        Ok(look_at_database(pool, &settings.pool, local.is_some())?)
    })?;
    let problems = found.problems();
    match json {
        true => print_or_fail(&as_json(&settings, &target, &found, &problems))?,
        false => print_line(&found.to_string()),
    }
    match problems {
        problems if problems.is_empty() => {
            if !json {
                print_line("All is well.");
            }
            Ok(())
        }
        problems => Err(Failure::Failed(problems.join("\n"))),
    }
}

fn as_json(settings: &Settings, target: &Target, found: &Findings, problems: &[String]) -> String {
    let rows = settings.effective().iter();
    let rows = rows
        .map(|row| json!({"variable": row.variable, "value": row.value, "source": row.source.to_string()}));
    let answer = json!({
        "tier": settings.tier.to_string(),
        "settings": rows.collect::<Vec<_>>(),
        "database": target.to_string(),
        "server": found.server,
        "free_connections": found.server.free(),
        "movies": found.movies,
        "problems": problems,
    });
    answer.to_string()
}

/// Every setting with its value and source, as a table.
fn describe_settings(settings: &Settings) -> String {
    let rows = settings.effective();
    let name_width = rows.iter().map(|row| row.variable.len()).max().unwrap_or(0);
    // A long URL must not push the sources out of sight.
    let value_width = rows.iter().map(|row| row.value.len()).max().unwrap_or(0).min(32);
    let lines = rows
        .iter()
        .map(|row| format!("  {:name_width$}  {:value_width$}  {}", row.variable, row.value, row.source));
    format!("Settings of the tier {}\n{}", settings.tier, lines.collect::<Vec<_>>().join("\n"))
}

/// The server's version and its limits on connections.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Server {
    pub(super) version: String,
    max_connections: i32,
    /// Reserved for superusers and, since PostgreSQL 16, for roles with `pg_use_reserved_connections`.
    reserved: i32,
    /// In use by all clients, except the connection that asks.
    in_use: i64,
    /// How many more the limit of this user allows; NULL without a limit.
    left_to_user: Option<i64>,
    /// How many more the limit of this database allows; NULL without a limit.
    left_to_database: Option<i64>,
}

impl Server {
    pub(super) fn find(db: &impl Execute) -> Result<Server> {
        // Not from pg_stat_activity, which hides the type of other users' sessions from ordinary users.
        let sql = "
            WITH used AS (
                SELECT coalesce(sum(numbackends), 1) - 1 AS in_use,
                       coalesce(sum(numbackends) FILTER (WHERE datname = current_database()), 1) - 1 AS here
                FROM pg_stat_database)
            SELECT current_setting('server_version') AS version,
                   current_setting('max_connections')::integer AS max_connections,
                   current_setting('superuser_reserved_connections')::integer
                       + coalesce(current_setting('reserved_connections', true)::integer, 0) AS reserved,
                   in_use::bigint,
                   (SELECT rolconnlimit - (SELECT count(*) - 1 FROM pg_stat_activity WHERE usename = current_user)
                    FROM pg_roles WHERE rolname = current_user AND rolconnlimit >= 0) AS left_to_user,
                   (SELECT datconnlimit - here FROM pg_database
                    WHERE datname = current_database() AND datconnlimit >= 0)::bigint AS left_to_database
            FROM used";
        db.execute_query_one(sql, &[])?.ok_or(poolhouse::Error::TooManyRows)
    }

    /// How many connections a pool could open now.
    pub(super) fn free(&self) -> i64 {
        let of_server = i64::from(self.max_connections - self.reserved) - self.in_use;
        let limits = [self.left_to_user, self.left_to_database].into_iter().flatten();
        limits.fold(of_server, i64::min).max(0)
    }
}

/// What the check found in the database.
#[derive(Debug)]
pub(crate) struct Findings {
    server: Server,
    pool_max: u32,
    /// `None` without the tables.
    movies: Option<i64>,
    /// It is the private server of the dev tier, where `serve` creates the tables.
    is_private: bool,
}

/// Queries the database on one connection. `is_private`: it is the private server of the dev tier.
fn look_at_database(pool: &Pool, settings: &PoolSettings, is_private: bool) -> Result<Findings> {
    let server = Server::find(pool)?;
    let movies = match schema::is_present(pool)? {
        true => pool.execute_query_one("SELECT count(*) FROM movies", &[])?,
        false => None,
    };
    Ok(Findings { server, pool_max: settings.max_connections, movies, is_private })
}

impl Findings {
    /// Each problem, with what to do about it.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let (free, wanted) = (self.server.free(), i64::from(self.pool_max));
        if free < wanted {
            problems.push(format!(
                "the pool may open {wanted} connections and only {free} are free: lower \
                 DB_POOL_MAX_CONNECTIONS, raise the server's max_connections, or end other clients"
            ));
        }
        if self.movies.is_none() && !self.is_private {
            problems.push(format!("the database lacks tables of this version: run {}", spelled("schema")));
        }
        problems
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = &self.server;
        let (free, wanted) = (server.free(), i64::from(self.pool_max));
        writeln!(f, "  server version   {}", server.version)?;
        writeln!(f, "  max_connections  {} ({} reserved)", server.max_connections, server.reserved)?;
        writeln!(f, "  connections      {} in use, {free} free", server.in_use)?;
        match free / wanted.max(1) {
            0 => writeln!(f, "  pool             at most {wanted} connections: more than are free")?,
            1 => writeln!(f, "  pool             at most {wanted} connections: fits, for one process")?,
            n => {
                writeln!(f, "  pool             at most {wanted} connections: fits, for up to {n} processes")?
            }
        }
        match self.movies {
            Some(movies) => write!(f, "  schema           present, {movies} movies"),
            None if self.is_private => {
                write!(f, "  schema           not made yet: {} makes it and loads a sample", spelled("serve"))
            }
            None => write!(f, "  schema           missing"),
        }
    }
}
