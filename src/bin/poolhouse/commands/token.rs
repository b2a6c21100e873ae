//! `poolhouse token`: makes and hashes bearer tokens. It reads no settings and stores nothing.

use crate::cli::{Failure, TokenCommand};
use crate::commands::database::print_or_fail;
use poolhouse::settings::ApiToken;
use serde_json::json;
use std::io::{self, BufRead, IsTerminal, Read};

/// Bytes of a new token: 192 random bits.
const RANDOM_BYTES: usize = 24;

/// The longest token that is read, in bytes; the service takes heads of requests that are little longer.
const MAX_TOKEN: u64 = 4096;

pub(crate) fn token(command: TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::New { name, json } => {
            let token = random_token()?;
            let entry = ApiToken::checked(&name, &token)?.entry();
            print_or_fail(&match json {
                true => json!({"token": token, "entry": entry}).to_string(),
                false => format!("Token, shown this once:  {token}\nEntry for API_TOKENS:    {entry}"),
            })
        }
        TokenCommand::Hash { name } => {
            let token = read_token(io::stdin().lock())?;
            print_or_fail(&ApiToken::checked(&name, &token)?.entry())
        }
    }
}

fn random_token() -> Result<String, Failure> {
    let mut bytes = [0; RANDOM_BYTES];
    getrandom::fill(&mut bytes).map_err(Failure::during("cannot get random bytes from the system"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Reads the only line.
fn read_token(input: io::StdinLock<'_>) -> Result<String, Failure> {
    let is_terminal = input.is_terminal();
    if is_terminal {
        eprintln!("The token (it will be visible), then Enter:");
    }
    let failed = "cannot read the token from standard input";
    let mut input = input.take(MAX_TOKEN + 3);
    let mut line = Vec::new();
    input.read_until(b'\n', &mut line).map_err(Failure::during(failed))?;
    let mut more = Vec::new();
    if !is_terminal {
        input.read_to_end(&mut more).map_err(Failure::during(failed))?;
    }
    first_line(&line, &more)
}

fn first_line(line: &[u8], more: &[u8]) -> Result<String, Failure> {
    let refuse =
        |what: &str| Failure::Settings(format!("standard input {what}: one token in one line is needed"));
    let token = line.strip_suffix(b"\n").unwrap_or(line);
    let token = token.strip_suffix(b"\r").unwrap_or(token);
    if token.len() as u64 > MAX_TOKEN {
        return Err(refuse(&format!("has a line of more than {MAX_TOKEN} bytes")));
    }
    if !more.trim_ascii().is_empty() {
        return Err(refuse("has more than one line"));
    }
    String::from_utf8(token.to_vec()).map_err(|_| refuse("is not text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_line_with_any_ending() {
        for line in ["abc", "abc\n", "abc\r\n"] {
            assert_eq!(first_line(line.as_bytes(), b"\n").ok().as_deref(), Some("abc"), "{line:?}");
        }
        for (line, more) in [(&b"abc\n"[..], &b"def"[..]), (b"\xff\n", b""), (&[b'a'; 4097], b"")] {
            assert!(first_line(line, more).is_err());
        }
    }
}
