//! `poolhouse status`: asks a running service for its pool, once or every second. It opens no connection to the database.

mod client;
mod screen;
mod view;

use crate::cli::{Failure, StatusArguments};
use crate::commands::status::client::{NoAnswer, Service};
use crate::commands::status::screen::Screen;
use crate::commands::status::view::{Verdict, View};
use crate::process::signals;
use poolhouse::Settings;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The exit codes for a pool in the states warning and error.
const WARNING: u8 = 4;
const ERROR: u8 = 5;

/// From one question to the next.
const INTERVAL: Duration = Duration::from_secs(1);

/// The longest token that is read from a file, in bytes.
const MAX_TOKEN: u64 = 4096;

pub(crate) fn status(arguments: &StatusArguments) -> Result<ExitCode, Failure> {
    let url = match &arguments.url {
        Some(url) => url.clone(),
        None => url_of(Settings::load()?.http.bind)?,
    };
    let service = Service::new(&url, find_token(arguments)?, Duration::from_secs(arguments.timeout))?;
    let mut screen = Screen::new();
    if arguments.watch {
        return watch(&service, arguments.json, &mut screen);
    }
    let (verdict, text) = show(&service, arguments.json, &screen)?;
    // A closed pipe (`| head`) does not change the verdict.
    let _ = screen.print(&text);
    Ok(match verdict {
        Verdict::Healthy => ExitCode::SUCCESS,
        Verdict::Warning => ExitCode::from(WARNING),
        Verdict::Error => ExitCode::from(ERROR),
    })
}

/// Asks every second until shutdown is requested. A service that does not answer any more may come back; one that has not
/// answered at all, or refuses the token, is a failure.
fn watch(service: &Service, json: bool, screen: &mut Screen) -> Result<ExitCode, Failure> {
    let mut has_answered = false;
    loop {
        let next = Instant::now() + INTERVAL;
        let (asked, how) = (service.clone(), *screen);
        let shown = signals::unless_shutdown(move || show(&asked, json, &how));
        let Some(shown) = shown.map_err(Failure::during("cannot start a thread"))? else { break };
        let drawn = match shown {
            Ok((_, text)) => {
                has_answered = true;
                screen.draw(&text)
            }
            // Standard output has answers only.
            Err(NoAnswer::Unreachable(why)) if has_answered && json => {
                eprintln!("poolhouse: {why}");
                Ok(())
            }
            Err(NoAnswer::Unreachable(why)) if has_answered => screen.draw(&format!("no answer\n  {why}")),
            Err(error) => return Err(error.into()),
        };
        match drawn {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
            drawn => drawn.map_err(Failure::during("cannot write to standard output"))?,
        }
        if signals::wait(next.saturating_duration_since(Instant::now())) {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(service: &Service, json: bool, screen: &Screen) -> Result<(Verdict, String), NoAnswer> {
    let answer = service.ask()?;
    let view = View::of(&answer)
        .map_err(|error| service.is_not_poolhouse(&format!("an answer that does not fit: {error}")))?;
    let text = if json { answer.to_string() } else { view.text(service.url(), screen.has_colours()) };
    Ok((view.verdict(), text))
}

/// The address at which this machine reaches a service that listens on `bind`.
fn url_of(bind: SocketAddr) -> Result<String, Failure> {
    if bind.port() == 0 {
        return Err(Failure::Settings(format!(
            "HTTP_BIND={bind} takes a free port at each start: give the address that the service has logged, as in \
             `poolhouse status http://127.0.0.1:PORT`"
        )));
    }
    let ip = match bind.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Ok(format!("http://{}", SocketAddr::new(ip, bind.port())))
}

/// The token, from the file or the variable.
fn find_token(arguments: &StatusArguments) -> Result<String, Failure> {
    let (token, place) = match &arguments.token_file {
        Some(path) => {
            let place = path.display().to_string();
            let token = first_line(path)
                .map_err(|error| Failure::Settings(format!("cannot read a token from {place}: {error}")))?;
            (token, place)
        }
        None => {
            (std::env::var("TOKEN").unwrap_or_default().trim().to_owned(), "the variable TOKEN".to_owned())
        }
    };
    let what = match token.as_bytes() {
        [] => "has no token",
        token if !token.iter().all(u8::is_ascii_graphic) => "has a text that cannot be a token",
        _ => return Ok(token),
    };
    Err(Failure::Settings(format!(
        "{place} {what}: `export TOKEN=…` with one of the service's API_TOKENS (the token itself, not its hash), or name a \
         file that has it with --token-file"
    )))
}

fn first_line(path: &std::path::Path) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(File::open(path)?.take(MAX_TOKEN)).read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_on_every_address_is_asked_on_this_machine() {
        for (bind, url) in [
            ("127.0.0.1:5000", "http://127.0.0.1:5000"),
            ("0.0.0.0:80", "http://127.0.0.1:80"),
            ("[::]:80", "http://[::1]:80"),
            ("10.0.0.7:5000", "http://10.0.0.7:5000"),
        ] {
            assert_eq!(url_of(bind.parse().unwrap()).unwrap(), url);
        }
        assert!(url_of("127.0.0.1:0".parse().unwrap()).is_err());
    }
}
