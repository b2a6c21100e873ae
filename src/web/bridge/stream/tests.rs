//! Bodies without a server: what the client reads of what the code writes.

use super::*;
use crate::pool::with_deadline;
use std::sync::mpsc;

async fn next(body: &mut StreamedBody) -> Option<Result<Bytes, ApiError>> {
    poll_fn(|cx| Pin::new(&mut *body).poll_next(cx)).await
}

async fn rest(mut body: StreamedBody) -> (Vec<u8>, Option<ApiError>) {
    let mut all = Vec::new();
    while let Some(chunk) = next(&mut body).await {
        match chunk {
            Ok(chunk) => all.extend_from_slice(&chunk),
            Err(error) => return (all, Some(error)),
        }
    }
    (all, None)
}

#[actix_web::test]
async fn everything_written_arrives_in_order() {
    for lines in [0, 1, 200_000] {
        let written = stream_body(move |out| {
            (0..lines).try_for_each(|line| writeln!(out, "{line}")).map_err(Error::application)
        });
        let (body, error) = rest(written.await.unwrap()).await;
        assert!(error.is_none());
        let expected: String = (0..lines).map(|line| format!("{line}\n")).collect();
        assert_eq!(body, expected.into_bytes());
    }
}

#[actix_web::test]
async fn an_early_error_is_a_response_and_a_late_one_breaks_the_body_off() {
    let early = stream_body(|out| {
        out.write_all(b"a little").map_err(Error::application)?;
        Err::<(), _>(Error::Closed)
    });
    assert_eq!(early.await.unwrap_err().code(), "closed");
    let late = stream_body(|out| {
        out.write_all(&[b'x'; CHUNK_SIZE]).map_err(Error::application)?;
        // Behind this the first chunk was taken: room is made for no other one.
        for _ in 0..=MAX_CHUNKS {
            out.write_all(&[b'y'; CHUNK_SIZE]).map_err(Error::application)?;
        }
        Err::<(), _>(Error::Closed)
    });
    let mut body = late.await.unwrap();
    let (mut all, mut error) = (0, None);
    while error.is_none() {
        match next(&mut body).await.expect("it does not end as if it were whole") {
            Ok(chunk) => all += chunk.len(),
            Err(cause) => error = Some(cause),
        }
    }
    assert!(all >= CHUNK_SIZE);
    assert_eq!(error.unwrap().code(), "closed");
    // Nor afterwards.
    assert!(next(&mut body).await.unwrap().is_err());
    let panicking = stream_body(|out| -> Result<(), Error> {
        for _ in 0..=MAX_CHUNKS {
            out.write_all(&[b'y'; CHUNK_SIZE]).map_err(Error::application)?;
        }
        panic!("no more")
    });
    assert_eq!(rest(panicking.await.unwrap()).await.1.unwrap().code(), "internal");
}

/// The deadline of the writing alone passes; the client reads on later.
#[actix_web::test]
async fn a_writer_that_ignores_an_error_makes_no_body_with_a_hole() {
    let (sender, failed) = mpsc::channel();
    let (resume, resumed) = mpsc::channel();
    let body = stream_body(move |out| {
        let short = Instant::now() + Duration::from_millis(10);
        let outcome = with_deadline(short, || (0..9).try_for_each(|_| out.write_all(&[b'x'; CHUNK_SIZE])));
        sender.send(outcome.is_err()).map_err(Error::application)?;
        resumed.recv().map_err(Error::application)?;
        let _ = writeln!(out, "the end");
        Ok::<_, Error>(())
    });
    let mut body = body.await.unwrap();
    assert!(failed.recv_timeout(Duration::from_secs(60)).unwrap());
    assert!(next(&mut body).await.unwrap().is_ok());
    resume.send(()).unwrap();
    assert!(rest(body).await.1.is_some());
}

#[actix_web::test]
async fn the_writer_waits_for_the_reader_and_ends_with_it() {
    let (sender, written) = mpsc::channel();
    let body = stream_body(move |out| {
        let mut chunks = 0;
        loop {
            match out.write_all(&[b'x'; CHUNK_SIZE]) {
                Ok(()) => chunks += 1,
                Err(error) => {
                    sender.send((chunks, error.kind())).map_err(Error::application)?;
                    return Err::<(), _>(Error::application(error));
                }
            }
        }
    });
    let mut body = body.await.unwrap();
    for _ in 0..3 {
        assert_eq!(next(&mut body).await.unwrap().unwrap().len(), CHUNK_SIZE);
    }
    drop(body);
    let (chunks, kind) = written.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(chunks <= 3 + MAX_CHUNKS, "{chunks}");
    assert_eq!(kind, io::ErrorKind::BrokenPipe);
}
