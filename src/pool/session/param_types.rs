//! ParamTypes the types of a statement's parameters where the server connection changes with every transaction.

use crate::pool::session::statement_cache::{Params, Unprepared};
use postgres::Client;
use postgres::types::Type;
use std::fmt::Write;
use std::sync::Arc;

/// Asks the server for parameters' types, and leaves nothing on the server connection.
///
/// Only a named statement tells its types, and its name would stay on whichever server connection it was made:
/// useless to us, and in the way of whoever uses that name there next. So it is prepared and closed within one
/// transaction.
///
/// The driver itself keeps to no such rule (rust-postgres, issue 1204). Where it meets a type it does not know,
/// as an enum, it looks that up with up to three statements of its own, prepared by name and kept for as long as
/// the client lives. Therefore they are found while the transaction lasts and dropped at its end, and every
/// later transaction that may need them begins by making them again under their names.
#[derive(Debug, Default)]
pub(super) struct ParamTypes {
    lookups: Vec<Lookup>,
}

/// A statement that the driver believes to be there.
#[derive(Debug)]
struct Lookup {
    name: String,
    text: String,
}

/// What the driver has prepared in this transaction by itself, of which `$1` is none. Its names are an `s` and a
/// number; a PgBouncer that keeps track of prepared statements (since 1.21, `max_prepared_statements`) gives them
/// others, and then there is nothing to do.
const PREPARED_NOW: &str = "SELECT name, statement FROM pg_catalog.pg_prepared_statements
    WHERE NOT from_sql AND prepare_time >= transaction_timestamp() AND name ~ '^s[0-9]+$'
      AND statement LIKE '%FROM pg_catalog.pg_%' AND statement <> $1";

impl ParamTypes {
    /// The types of the parameters of `sql`. Every type of its result is known to the driver from then on.
    pub(super) fn types(
        &mut self,
        client: &mut Client,
        sql: &str,
        params: Params<'_>,
        in_transaction: bool,
    ) -> Result<Arc<[Type]>, Unprepared> {
        let learnt = self.within_transaction(client, sql, params, in_transaction);
        let removal = self.lookups.iter().fold(String::new(), |mut text, Lookup { name, .. }| {
            let _ = write!(text, "DEALLOCATE {name};");
            text
        });
        let end = match (&learnt, in_transaction) {
            (Ok(_), true) => removal,
            (Ok(_), false) => format!("{removal}COMMIT"),
            // In one message, and so on one server connection, although the transaction ends in between.
            (Err(Unprepared { spoils_session: false, .. }), false) => format!("ROLLBACK;{removal}"),
            // A failed transaction cannot drop them. When we disconnect inside it, PgBouncer ends the server
            // connection, and them with it.
            (Err(_), _) if !removal.is_empty() => {
                return learnt.map_err(|refused| Unprepared { spoils_session: true, ..refused });
            }
            (Err(_), _) => return learnt,
        };
        if !end.is_empty() {
            let ended = client.batch_execute(&end);
            if let (Err(error), Ok(_)) = (ended, &learnt) {
                return Err(Unprepared { error, spoils_session: true });
            }
        }
        learnt
    }

    fn within_transaction(
        &mut self,
        client: &mut Client,
        sql: &str,
        params: Params<'_>,
        in_transaction: bool,
    ) -> Result<Arc<[Type]>, Unprepared> {
        let mut beginning = if in_transaction { String::new() } else { "BEGIN;".to_owned() };
        for Lookup { name, text } in &self.lookups {
            let _ = write!(beginning, "PREPARE {name} AS {text};");
        }
        if !beginning.is_empty() {
            client.batch_execute(&beginning).map_err(spoilt)?;
        }
        let statement = client.prepare(sql).map_err(|error| {
            // A lookup that is not there, a name that is taken: both only where somebody prepares by name
            // outside of a transaction. What is no refusal may come from halfway through a lookup.
            let code = error.as_db_error().map(|refusal| refusal.code().code());
            let spoils_session = matches!(code, None | Some("26000" | "42P05"));
            Unprepared { error, spoils_session }
        })?;
        let in_result = statement.columns().iter().map(|column| column.type_());
        if statement.params().iter().chain(in_result).any(|type_| Type::from_oid(type_.oid()).is_none()) {
            let prepared = client.query_typed(PREPARED_NOW, &[(&sql, Type::TEXT)]).map_err(spoilt)?;
            for row in &prepared {
                let (name, text) = (row.try_get(0).map_err(spoilt)?, row.try_get(1).map_err(spoilt)?);
                self.lookups.push(Lookup { name, text });
            }
        }
        if statement.params().len() != params.len()
            // For the driver's own words: it counts before it sends anything.
            && let Err(error) = client.execute(&statement, params)
        {
            return Err(Unprepared { error, spoils_session: false });
        }
        // The statement's Close goes out before whatever is sent next, and so within the transaction.
        Ok(statement.params().into())
    }
}

fn spoilt(error: postgres::Error) -> Unprepared {
    Unprepared { error, spoils_session: true }
}
