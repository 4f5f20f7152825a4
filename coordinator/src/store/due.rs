//! Whether time has run out for anything: one look for all of it, as it is taken several times a second and mostly finds nothing.

use croft_scheduler::LeaseTerms;

use super::convert::millis;
use super::{Store, StoreError};

/// What there is of which to do something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Due {
    /// Leases that have ended: [`Store::attempt_expired`].
    pub leases: bool,
    /// Builds that have taken longer than they may: [`Store::build_overdue`].
    pub builds: bool,
    /// Agents of which nothing was heard, or what they hold: [`Store::agent_silent`], [`Store::output_held_in_silence`].
    pub silence: bool,
}

impl Store {
    /// Looks at all of it.
    pub async fn due(&self, terms: &LeaseTerms) -> Result<Due, StoreError> {
        let row = sqlx::query!(
            r#"WITH heard AS (SELECT now() - $1::bigint * interval '1 millisecond' AS last)
               SELECT EXISTS (SELECT FROM attempts
                              WHERE state IN ('offered', 'running') AND lease_until < now()) AS "leases!",
                      EXISTS (SELECT FROM builds
                              WHERE state IN ('planning', 'running') AND deadline < now()) AS "builds!",
                      EXISTS (SELECT FROM agents AS a, heard
                              WHERE a.last_seen < heard.last
                                AND (a.state = 'connected'
                                     OR EXISTS (SELECT FROM builds AS b JOIN outputs AS o ON o.build = b.id
                                                WHERE b.state = 'running' AND o.agent = a.id)
                                        AND NOT EXISTS (SELECT FROM attempts AS t
                                                        WHERE t.agent = a.id AND t.state = 'running'))) AS "silence!""#,
            millis(terms.lease + terms.grace),
        )
        .fetch_one(&mut *self.connection().await?)
        .await?;
        Ok(Due {
            leases: row.leases,
            builds: row.builds,
            silence: row.silence,
        })
    }
}
