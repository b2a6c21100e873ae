//! Documents: over HTTP, and loaded from files by `poolhouse ingest`.

mod folder;
mod http;
mod ingest;
mod interrupted;
