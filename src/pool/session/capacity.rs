//! Asks the server how many connections it allows, and how many it has.

use crate::pool::session::{Limit, Session};
use std::time::Instant;

/// The limit that leaves the fewest connections: the server's own, without those reserved for other roles (PostgreSQL,
/// "Connections and Authentication"), the database's or the role's; and the connections that count against it. Superusers have the
/// first only. All roles may see to whom and to which database a connection belongs.
const CAPACITY: &str = "
    WITH clients AS (SELECT datid, usesysid FROM pg_catalog.pg_stat_activity
            WHERE datid IS NOT NULL AND usesysid IS NOT NULL),
        role AS (SELECT oid, rolsuper, rolconnlimit FROM pg_catalog.pg_roles WHERE rolname = session_user),
        limits (allowed, used) AS (
            SELECT pg_catalog.current_setting('max_connections')::int4 - CASE WHEN rolsuper THEN 0
                    ELSE pg_catalog.current_setting('superuser_reserved_connections')::int4
                    + coalesce(pg_catalog.current_setting('reserved_connections', true)::int4, 0) END,
                (SELECT pg_catalog.count(*) FROM clients) FROM role
            UNION ALL SELECT datconnlimit, (SELECT pg_catalog.count(*) FROM clients WHERE datid = oid)
                FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database() AND datconnlimit >= 0
                AND NOT (SELECT rolsuper FROM role)
            UNION ALL SELECT rolconnlimit, (SELECT pg_catalog.count(*) FROM clients WHERE usesysid = oid)
                FROM role WHERE rolconnlimit >= 0 AND NOT rolsuper)
    SELECT allowed, used FROM limits ORDER BY allowed - used LIMIT 1";

impl Session {
    /// The connections that the server allows, and those that it has. `None` where it does not say so by `deadline`, or in a form
    /// that is not known: the session then has to be looked at again.
    pub(crate) fn capacity(&mut self, deadline: Instant) -> Option<(u32, u32)> {
        let row = self.last_row(CAPACITY, Limit::Until(deadline)).ok()?;
        let [allowed, used] = &row[..] else { return None };
        let number = |text: &Option<String>| text.as_deref()?.parse().ok();
        Some((number(allowed)?, number(used)?))
    }
}
