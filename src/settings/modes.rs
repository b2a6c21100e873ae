//! The settings that are a choice between a few words, apart from the tier.

use crate::settings::choice::choice;

choice! {
    /// Encryption of the connection to the server, with libpq's names and meanings, from the least to the most secure.
    #[non_exhaustive]
    pub enum SslMode for "DB_SSLMODE" {
        /// No encryption.
        Disable = "disable",
        /// TLS if the server offers it; no certificate is verified.
        Prefer = "prefer",
        /// TLS; no certificate is verified.
        Require = "require",
        /// TLS, with a server certificate that an authority in `sslrootcert` has signed.
        VerifyCa = "verify-ca",
        /// As `VerifyCa`, and the certificate must be for the host's name.
        VerifyFull = "verify-full",
    }
}

impl SslMode {
    /// Whether the server's certificate is verified.
    pub(super) fn verifies(self) -> bool {
        matches!(self, SslMode::VerifyCa | SslMode::VerifyFull)
    }
}

choice! {
    /// Which of several servers is acceptable, with libpq's names and meanings.
    #[non_exhaustive]
    pub enum TargetSessionAttrs for "DB_TARGET_SESSION_ATTRS" {
        /// Any server.
        Any = "any",
        /// A server that accepts writes.
        ReadWrite = "read-write",
        /// A server that does not accept writes.
        ReadOnly = "read-only",
    }
}

choice! {
    /// What opening a pool does when the database cannot be used yet.
    pub enum Start for "DB_START" {
        /// Opens the pool without waiting for the database, and keeps connecting in the background, also after a refused
        /// login. Until a connection succeeds, callers get the error that explains why.
        Wait = "wait",
        /// Returns the error.
        Fail = "fail",
    }
}

choice! {
    /// Whether a connection is checked before it is lent.
    #[non_exhaustive]
    pub enum PrePing for "DB_POOL_PRE_PING" {
        /// Always: one round trip per acquire.
        On = "on",
        /// Never.
        Off = "off",
        /// If the server has not answered on it within `validate_after`, or another connection has just broken.
        Auto = "auto",
    }
}

choice! {
    /// Which statements of waiting callers are sent together, each in a transaction of its own.
    #[non_exhaustive]
    pub enum ShareRoundTrips for "DB_POOL_SHARE_ROUND_TRIPS" {
        /// None.
        Off = "off",
        /// Queries that can only read.
        Reads = "reads",
        /// Writes as well. When a connection breaks, the outcome of up to eight writes is unknown instead of that of one.
        All = "all",
    }
}

choice! {
    /// Whether there is a PgBouncer in front of the server, and how it pools.
    #[non_exhaustive]
    pub enum PgBouncerMode for "DB_PGBOUNCER_MODE" {
        /// There is none, or it assigns each connection a server connection of its own (`pool_mode = session`).
        Off = "off",
        /// It assigns a server connection per transaction (`pool_mode = transaction`), so no session state survives a
        /// transaction. The pool then sends each statement in full instead of preparing it by name, and uses neither
        /// startup options nor `DISCARD ALL`.
        Transaction = "transaction",
    }
}

choice! {
    /// How the program writes its log lines.
    #[non_exhaustive]
    pub enum LogFormat for "LOG_FORMAT" {
        /// One line for people: time, level, module, the request's id, message.
        Text = "text",
        /// One JSON object in a line, for programs.
        Json = "json",
    }
}
