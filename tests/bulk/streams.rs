//! `web::stream_body`: rows as the body of a response, and what a client sees of one that fails half way.

use super::*;
use crate::support::{SOON, eventually};
use actix_web::dev::ServerHandle;
use actix_web::rt::System;
use actix_web::web::{Data, Query, get};
use actix_web::{App, HttpResponse, HttpServer};
use poolhouse::web::{ApiError, RequestDeadline, stream_body};
use poolhouse::{Bulk, CopyFormat, Error, Execute};
use serde_json::Value;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread;

/// A service that runs any query and streams its rows.
struct Service {
    address: SocketAddr,
    handle: ServerHandle,
    pool: Pool,
}

async fn answer(pool: Data<Pool>, query: Query<HashMap<String, String>>) -> Result<HttpResponse, ApiError> {
    let sql = query["sql"].clone();
    let body = match query["as"].as_str() {
        "csv" => {
            let format = CopyFormat::Csv { has_header: false };
            stream_body(move |out| pool.copy_out(&sql, format, out)).await?
        }
        _ => {
            let lines = stream_body(move |out| {
                pool.for_each_row(&sql, &[], |row: Value| writeln!(out, "{row}").map_err(Error::application))
            });
            lines.await?
        }
    };
    Ok(HttpResponse::Ok().body(body))
}

impl Service {
    fn start(timeout: Option<Duration>) -> Service {
        let pool = pool();
        let (sender, started) = mpsc::channel();
        let served = pool.clone();
        thread::spawn(move || {
            System::new().block_on(async move {
                let app = move || {
                    App::new()
                        .wrap(RequestDeadline::new(timeout))
                        .app_data(Data::new(served.clone()))
                        .route("/", get().to(answer))
                };
                let server = HttpServer::new(app).workers(1).disable_signals().bind("127.0.0.1:0").unwrap();
                let address = server.addrs()[0];
                let server = server.run();
                sender.send((address, server.handle())).unwrap();
                server.await.unwrap();
            });
        });
        let (address, handle) = started.recv().unwrap();
        Service { address, handle, pool }
    }

    fn request(&self, form: &str, sql: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(2 * SOON)).unwrap();
        let sql: String = sql.bytes().map(|byte| format!("%{byte:02X}")).collect();
        write!(stream, "GET /?as={form}&sql={sql} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        stream
    }

    /// The status of the response, its size, and whether its end was marked.
    fn get(&self, form: &str, sql: &str) -> (u16, usize, bool) {
        let mut response = Vec::new();
        // An aborted connection may also be reset.
        let _ = self.request(form, sql).read_to_end(&mut response);
        let status = std::str::from_utf8(&response[9..12]).unwrap().parse().unwrap();
        (status, response.len(), response.ends_with(b"0\r\n\r\n"))
    }

    /// The connection has come back, and the next request gets an answer.
    #[track_caller]
    fn assert_free(&self) {
        eventually("the connection is back", SOON, || self.pool.status().in_use == 0);
        assert_eq!(self.pool.execute_query_one("SELECT 1", &[]).unwrap(), Some(1));
        let (status, _, is_whole) = self.get("csv", "SELECT 1");
        assert_eq!((status, is_whole), (200, true));
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
    }
}

#[test]
fn all_rows_arrive_and_the_end_is_marked() {
    let service = Service::start(None);
    for form in ["csv", "lines"] {
        let sql = "SELECT repeat('x', 100) AS a FROM generate_series(1, 50000)";
        let (status, size, is_whole) = service.get(form, sql);
        assert_eq!((status, is_whole), (200, true));
        assert!(size > 5_000_000, "{size}");
        service.assert_free();
    }
}

#[test]
fn what_fails_half_way_is_broken_off_and_what_fails_before_is_an_error() {
    let service = Service::start(None);
    for form in ["csv", "lines"] {
        let sql = "SELECT repeat('x', 100) AS a, 1 / (n - 40000) AS b FROM generate_series(1, 50000) n";
        let (status, size, is_whole) = service.get(form, sql);
        assert_eq!((status, is_whole), (200, false), "{form}");
        assert!(size > 64 * 1024, "{size}");
        service.assert_free();
        assert_eq!(service.get(form, "SELECT nowhere").0, 500);
        assert_eq!(service.get(form, "SELECT 1 / 0").0, 500);
    }
}

#[test]
fn a_client_that_leaves_ends_the_query() {
    let service = Service::start(None);
    for form in ["csv", "lines"] {
        let endless = "SELECT repeat('x', 1000) AS a, generate_series(1, 2000000000) AS b";
        let mut client = service.request(form, endless);
        client.read_exact(&mut [0; 100_000]).unwrap();
        assert_eq!(service.pool.status().in_use, 1);
        drop(client);
        service.assert_free();
    }
}

#[test]
fn a_client_that_does_not_read_is_left_at_the_deadline() {
    let service = Service::start(Some(3000 * MS));
    for form in ["csv", "lines"] {
        let endless = "SELECT repeat('x', 1000) AS a, generate_series(1, 2000000000) AS b";
        let mut client = service.request(form, endless);
        client.read_exact(&mut [0; 1000]).unwrap();
        service.assert_free();
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest);
        assert!(!rest.ends_with(b"0\r\n\r\n"));
    }
}
