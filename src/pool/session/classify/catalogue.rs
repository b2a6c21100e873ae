//! What a pool knows of its statements: how the server described them, and what it answered about the objects behind
//! their names (`question.rs`).
//!
//! **Lock rule**: each mutex is held for one lookup or one insertion, never during a query to the server.

use crate::error::ServerError;
use crate::pool::session::classify::question::{Question, Safety};
use crate::pool::session::classify::{Form, Syntax};
use crate::pool::transport::protocol::reply::Reply;
use lru::LruCache;
use postgres::types::{Oid, Type};
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is known about the effects of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Traits {
    /// It cannot change the database.
    pub(crate) only_reads: bool,
    /// It leaves no state in the session that the next borrower would see.
    pub(crate) is_clean: bool,
    /// It takes effect as a whole or not at all.
    pub(crate) is_atomic: bool,
    /// It begins or ends a transaction.
    pub(crate) controls_transaction: bool,
    /// It may make the transaction that it runs in a read-only one.
    pub(crate) sets: bool,
}

/// The state of the session that runs the statement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionState {
    pub(crate) in_transaction: bool,
    /// The epoch in which the pool's transaction, if there is one, began: what that sees may be as old.
    pub(crate) began: Option<u64>,
    /// What it sees may be its own alone, as a function that is not committed yet, or a setting.
    pub(crate) is_dirty: bool,
    /// The server parses the text by the same rules as the pool.
    pub(crate) is_readable: bool,
    /// And the literals in it as in every other session of the pool.
    pub(crate) reads_as_at_login: bool,
}

impl SessionState {
    /// Whether it may see the catalogue as it was before `epoch`, though what it runs is as it is now: in a transaction with
    /// one snapshot for all of it.
    pub(crate) fn is_behind(&self, epoch: u64) -> bool {
        self.began.is_some_and(|began| began != epoch)
    }
}

/// What a pool knows of its statements, shared by all of its sessions.
#[derive(Debug)]
pub(crate) struct Catalogue {
    /// Locked for one lookup or one insertion, never during a query to the server.
    statements: Mutex<LruCache<Box<str>, Known>>,
    /// The types that are not PostgreSQL's own, by their ids, and the epoch in which they were looked up. Locked likewise.
    types: Mutex<(u64, HashMap<Oid, Type>)>,
    /// The number in the next statement's name.
    next_name: AtomicU64,
    /// Counts the statements run by this pool that may have changed the catalogue.
    epoch: Arc<AtomicU64>,
    /// The server has no such catalogue, or this role may not read it.
    is_unreadable: AtomicBool,
}

/// What is known of one statement.
#[derive(Debug, Default)]
struct Known {
    answer: Option<Answer>,
    description: Option<Arc<Description>>,
}

/// How the server described a statement.
#[derive(Debug)]
pub(crate) struct Description {
    pub(crate) sql: Box<str>,
    /// The statement's name on the servers, which no other description in the pool has.
    pub(crate) name: String,
    /// The types of its parameters.
    pub(crate) params: Box<[Type]>,
}

/// A statement's traits, or what must be asked to know them.
pub(crate) enum Lookup {
    Known(Traits),
    Ask(Box<Question>),
}

#[derive(Debug, Clone, Copy)]
struct Answer {
    safety: Safety,
    epoch: u64,
    at: Instant,
}

/// Longer texts, in bytes, are not cached: usually their literals make each of them unique.
const LONGEST_CACHED: usize = 16 * 1024;

/// The number of cached answers.
const CACHE_SIZE: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// How long a cached answer is valid. Other programs may change the catalogue, which the epoch does not show.
const CACHE_TTL: Duration = Duration::from_secs(60);

impl Catalogue {
    pub(crate) fn new() -> Catalogue {
        Catalogue {
            statements: Mutex::new(LruCache::new(CACHE_SIZE)),
            types: Mutex::default(),
            next_name: AtomicU64::new(1),
            epoch: Arc::default(),
            is_unreadable: AtomicBool::new(false),
        }
    }

    /// The current epoch. Answers of earlier epochs may be outdated.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// For the connections, which see what statements do.
    pub(crate) fn share_epoch(&self) -> Arc<AtomicU64> {
        self.epoch.clone()
    }

    /// A statement of this pool may have changed the catalogue.
    pub(crate) fn note_change(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Forgets all answers, and whether the catalogue could be read.
    pub(crate) fn reset(&self) {
        self.is_unreadable.store(false, Ordering::Relaxed);
        self.note_change();
    }

    fn statements(&self) -> MutexGuard<'_, LruCache<Box<str>, Known>> {
        self.statements.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The types of the current epoch.
    fn types(&self) -> MutexGuard<'_, (u64, HashMap<Oid, Type>)> {
        let mut types = self.types.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = self.epoch();
        if types.0 != epoch {
            *types = (epoch, HashMap::new());
        }
        types
    }

    /// How the server has described the statement to a session of this pool.
    pub(crate) fn description(&self, sql: &str) -> Option<Arc<Description>> {
        self.statements().get(sql)?.description.clone()
    }

    /// A name for a statement on the servers.
    pub(crate) fn new_name(&self) -> String {
        format!("poolhouse_{}", self.next_name.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes the description with this name. Where `is_shared` it is kept for other sessions, or that of a session which was
    /// faster is returned: batches need the same names everywhere.
    pub(crate) fn describe(
        &self,
        name: String,
        sql: &str,
        params: Vec<Type>,
        is_shared: bool,
    ) -> Arc<Description> {
        let description = Arc::new(Description { sql: sql.into(), name, params: params.into() });
        if is_shared && sql.len() <= LONGEST_CACHED {
            let mut statements = self.statements();
            let known = &mut statements.get_or_insert_mut(sql.into(), Known::default).description;
            match known {
                Some(known) if known.params == description.params => return known.clone(),
                _ => *known = Some(description.clone()),
            }
        }
        description
    }

    /// Forgets the statement's description, and all types: the objects behind them may have changed.
    pub(crate) fn forget(&self, sql: &str) {
        if let Some(known) = self.statements().get_mut(sql) {
            known.description = None;
        }
        self.types().1.clear();
    }

    /// The type with this id; `None` if it is to be looked up.
    pub(crate) fn type_(&self, oid: Oid) -> Option<Type> {
        Type::from_oid(oid).or_else(|| self.types().1.get(&oid).cloned())
    }

    pub(crate) fn put_type(&self, type_: Type) {
        self.types().1.insert(type_.oid(), type_);
    }

    /// Returns what the statement may do, or what must be asked to know it.
    pub(crate) fn traits(&self, sql: &str, session: SessionState) -> Lookup {
        let syntax = Syntax::of(sql);
        let safety = match syntax.form {
            _ if !session.is_readable => Safety::UNPROVEN,
            Form::Query | Form::Write => {
                // Read before the query: a change during the query makes the answer outdated.
                let (epoch, at) = (self.epoch(), Instant::now());
                match self.answer(sql, epoch, at) {
                    _ if self.is_unreadable.load(Ordering::Relaxed) => Safety::UNPROVEN,
                    Some(safety) => safety,
                    None if session.is_behind(epoch) => Safety::UNPROVEN,
                    None => return Lookup::Ask(Box::new(Question { syntax, epoch, at })),
                }
            }
            Form::Show => Safety { only_reads: true, is_clean: true },
            Form::Local => Safety { only_reads: false, is_clean: true },
            Form::Definition | Form::Other => Safety::UNPROVEN,
        };
        Lookup::Known(traits(&syntax, safety))
    }

    fn answer(&self, sql: &str, epoch: u64, now: Instant) -> Option<Safety> {
        let answer = self.statements().get(sql)?.answer?;
        let is_valid = answer.epoch == epoch && now.saturating_duration_since(answer.at) < CACHE_TTL;
        is_valid.then_some(answer.safety)
    }

    /// Returns the traits by the server's answer. Where the server refused to answer, nothing is proven; the refusal is
    /// returned where it has aborted the caller's transaction.
    pub(crate) fn settle(
        &self,
        sql: &str,
        question: &Question,
        session: SessionState,
        answer: Result<Reply, Box<ServerError>>,
    ) -> Result<Traits, Box<ServerError>> {
        let safety = match answer {
            Ok(reply) => Safety::of(reply),
            // A server of another kind may not know these tables, or refuse to show them.
            Err(error) if matches!(error.sqlstate().get(..2), Some("42" | "0A")) => {
                // A borrower's role or search path says nothing about the others.
                self.is_unreadable.fetch_or(!session.is_dirty, Ordering::Relaxed);
                match session.in_transaction {
                    // The next transaction runs without the question.
                    true => return Err(error),
                    false => return Ok(traits(&question.syntax, Safety::UNPROVEN)),
                }
            }
            Err(error) => return Err(error),
        };
        if !session.is_dirty && sql.len() <= LONGEST_CACHED {
            let answer = Answer { safety, epoch: question.epoch, at: question.at };
            self.statements().get_or_insert_mut(sql.into(), Known::default).answer = Some(answer);
        }
        Ok(traits(&question.syntax, safety))
    }
}

fn traits(syntax: &Syntax, safety: Safety) -> Traits {
    Traits {
        only_reads: safety.only_reads && matches!(syntax.form, Form::Query | Form::Show),
        is_clean: safety.is_clean,
        is_atomic: syntax.form != Form::Other,
        controls_transaction: syntax.controls_transaction,
        sets: syntax.sets,
    }
}
