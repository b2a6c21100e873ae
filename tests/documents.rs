//! Documents: over HTTP, and loaded from files by `poolhouse ingest`.

mod http;
