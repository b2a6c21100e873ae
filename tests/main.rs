//! One binary for every story that needs a real PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on fails")]

mod architecture;
mod auth;
mod bench;
mod bulk;
mod chaos_short;
mod cli;
mod connections;
mod dashboard;
mod decode;
mod documents;
mod errors;
mod graceful;
mod health;
mod hostile;
mod http;
mod import;
mod local_postgres;
mod logs;
mod metrics;
mod movies_api;
mod openapi;
mod pins;
mod pool;
mod proxy;
mod readme;
mod requests;
mod series;
mod settings;
mod single_queries;
mod status;
mod support;
